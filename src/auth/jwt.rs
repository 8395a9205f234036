//! Tokens of an outside service: JWTs (RFC 7519) as distribution's
//! docs/content/spec/auth/{token,jwt,scope}.md have them.
//!
//! RS256, ES256 and EdDSA only. Which of them a key takes follows from the key, never
//! from the token: what says another is refused before anything is verified. Keys
//! come from the files of `--token-certs` and `--token-jwks`, or in the token itself
//! (`x5c`) with a chain of certificates that ends in one of `--token-certs`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD as BASE64};
use rustls::RootCertStore;
use rustls::SignatureScheme;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{
    CertificateDer, SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::ParsedCertificate;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::identity::Scoped;
use super::watched::Watched;
use super::{Error, Right, der};
use crate::oci::Repository;

/// How far clocks may be apart, in seconds: distribution's number.
const LEEWAY: u64 = 60;
/// Certificates of one token.
const CHAIN_MAX: usize = 10;
/// Keys of one file, and those tried for a token that names none.
const KEYS_MAX: usize = 100;
const KEYS_TRIED: usize = 10;

/// The flags `--token-…`.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where clients get a token.
    pub realm: String,
    /// What this server calls itself, and tokens must be made for.
    pub service: String,
    pub issuer: String,
    pub certs: Option<PathBuf>,
    pub jwks: Option<PathBuf>,
}

#[derive(Debug)]
pub struct Service {
    pub realm: String,
    pub service: String,
    issuer: String,
    certs: Option<Watched<Keys>>,
    jwks: Option<Watched<Keys>>,
}

/// Why a token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("it is not a JWT")]
    Malformed,
    #[error(
        "it wants another algorithm than RS256, ES256 and EdDSA, or its key another than it says"
    )]
    Algorithm,
    #[error("it is signed with a key that is not known")]
    Key,
    #[error("its certificates do not lead to one of --token-certs")]
    Chain,
    #[error("its signature is wrong")]
    Signature,
    #[error("it has expired")]
    Expired,
    #[error("its time has not come")]
    Early,
    #[error("it has another issuer")]
    Issuer,
    #[error("it is made for another service")]
    Audience,
}

/// A key, and so the one algorithm that it takes.
#[derive(Clone)]
struct Key {
    algorithm: &'static Algorithm,
    /// What a certificate calls subjectPublicKey.
    bytes: Vec<u8>,
    /// Any of which a token may name.
    ids: Vec<String>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} key {:?}", self.algorithm.name, self.ids)
    }
}

#[derive(Debug)]
struct Keys {
    keys: Vec<Key>,
    /// What `x5c` may lead to: the certificates of a PEM file.
    certs: Vec<CertificateDer<'static>>,
    roots: RootCertStore,
}

/// RFC 7518, 3.1 and RFC 8037, 3.1.
#[derive(Debug, PartialEq, Eq)]
struct Algorithm {
    name: &'static str,
    scheme: SignatureScheme,
}

static ALGORITHMS: [Algorithm; 3] = [
    Algorithm { name: "RS256", scheme: SignatureScheme::RSA_PKCS1_SHA256 },
    Algorithm { name: "ES256", scheme: SignatureScheme::ECDSA_NISTP256_SHA256 },
    Algorithm { name: "EdDSA", scheme: SignatureScheme::ED25519 },
];

impl Algorithm {
    /// The first of a scheme's is the one for the curve that it is named after.
    fn verifier(&self) -> Option<&'static dyn SignatureVerificationAlgorithm> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let mut mapping = provider.signature_verification_algorithms.mapping.iter();
        let (_, verifiers) = mapping.find(|(scheme, _)| *scheme == self.scheme)?;
        verifiers.first().copied()
    }

    fn by_name(name: &str) -> Option<&'static Algorithm> {
        ALGORITHMS.iter().find(|algorithm| algorithm.name == name)
    }

    fn verify(&self, key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        let converted = match self.scheme {
            SignatureScheme::ECDSA_NISTP256_SHA256 => der::ecdsa_signature(signature),
            _ => Some(signature.to_vec()),
        };
        let verified = converted
            .zip(self.verifier())
            .map(|(signature, verifier)| verifier.verify_signature(key, message, &signature));
        matches!(verified, Some(Ok(())))
    }
}

impl Key {
    /// `None`: not a key of a kind that is taken.
    fn from_info(info: &[u8]) -> Option<Key> {
        let (id, bytes) = der::public_key(info)?;
        let algorithm = ALGORITHMS.iter().find(|algorithm| {
            let verifier = algorithm.verifier();
            verifier.is_some_and(|verifier| verifier.public_key_alg_id().as_ref() == id)
        })?;
        Some(Key { algorithm, bytes: bytes.to_vec(), ids: vec![libtrust_id(info)] })
    }

    fn from_jwk(jwk: &Jwk) -> Option<Key> {
        let number = |text: &Option<String>| BASE64.decode(text.as_ref()?).ok();
        let curve = jwk.crv.as_deref();
        let (name, bytes) = match (jwk.kty.as_str(), curve) {
            ("RSA", _) => ("RS256", der::rsa_key(&number(&jwk.n)?, &number(&jwk.e)?)),
            ("EC", Some("P-256")) => {
                let (x, y) = (number(&jwk.x)?, number(&jwk.y)?);
                let whole = x.len() == 32 && y.len() == 32;
                ("ES256", whole.then(|| [&[4], &x[..], &y[..]].concat())?)
            }
            ("OKP", Some("Ed25519")) => ("EdDSA", number(&jwk.x)?),
            _ => return None,
        };
        let for_this = jwk.alg.as_deref().is_none_or(|alg| alg == name);
        let to_verify = jwk.usage.as_deref().is_none_or(|usage| usage == "sig");
        (for_this && to_verify).then(|| Key {
            algorithm: Algorithm::by_name(name).expect("one of the three"),
            bytes,
            ids: Vec::from_iter(jwk.kid.clone()),
        })
    }
}

/// The id that Docker's libtrust gives a key, and most token services tokens for
/// distribution: 30 bytes of its SHA-256 in base32, in groups of four.
fn libtrust_id(info: &[u8]) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let hash: [u8; 32] = Sha256::digest(info).into();
    let mut id = String::new();
    for (group, five) in hash[..30].chunks(5).enumerate() {
        let bits = five.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        for n in 0..8 {
            if n % 4 == 0 && group + n > 0 {
                id.push(':');
            }
            id.push(char::from(LETTERS[(bits >> (35 - 5 * n) & 31) as usize]));
        }
    }
    id
}

/// RFC 7517, 4.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Keys {
    /// Certificates and public keys in PEM.
    fn from_pem(path: &Path, text: &str) -> Result<Keys, Error> {
        let failed = |why: &str| Error::Keys { path: path.to_owned(), why: why.to_owned() };
        let unreadable = |error: rustls::pki_types::pem::Error| failed(&error.to_string());
        let mut keys = Keys { keys: Vec::new(), certs: Vec::new(), roots: RootCertStore::empty() };
        const KINDS: &str = "want RSA (2048 bits or more), ECDSA P-256 or Ed25519";
        for cert in CertificateDer::pem_slice_iter(text.as_bytes()) {
            let cert = cert.map_err(unreadable)?;
            let key = info_of(&cert).and_then(|info| Key::from_info(&info));
            keys.roots
                .add(cert.clone())
                .map_err(|error| failed(&format!("a certificate cannot be used: {error}")))?;
            // Certificates of authorities may have other keys.
            keys.keys.extend(key);
            keys.certs.push(cert);
        }
        for info in SubjectPublicKeyInfoDer::pem_slice_iter(text.as_bytes()) {
            let key = Key::from_info(&info.map_err(unreadable)?);
            keys.keys
                .push(key.ok_or_else(|| failed(&format!("a key is of another kind: {KINDS}")))?);
        }
        if keys.keys.is_empty() && keys.certs.is_empty() {
            return Err(failed("there is neither a certificate nor a public key in PEM form"));
        }
        if keys.keys.len() > KEYS_MAX || keys.certs.len() > KEYS_MAX {
            return Err(failed("there are more than 100 keys"));
        }
        Ok(keys)
    }

    /// A JWK Set (RFC 7517, 5).
    fn from_jwks(path: &Path, text: &str) -> Result<Keys, Error> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let failed = |why: String| Error::Keys { path: path.to_owned(), why };
        let set: Set = serde_json::from_str(text).map_err(|error| failed(error.to_string()))?;
        // Keys of other kinds, and for other uses, are to be passed over.
        let keys: Vec<Key> = set
            .keys
            .into_iter()
            .filter_map(|key| Key::from_jwk(&serde_json::from_value(key).ok()?))
            .collect();
        match keys.len() {
            0 => Err(failed("there is no key for RS256, ES256 or EdDSA".to_owned())),
            1..=KEYS_MAX => Ok(Keys { keys, certs: Vec::new(), roots: RootCertStore::empty() }),
            _ => Err(failed("there are more than 100 keys".to_owned())),
        }
    }

    /// The key of a chain of certificates that ends in one of these.
    fn of_chain(&self, chain: &[CertificateDer<'_>], now: u64) -> Option<Key> {
        let (cert, others) = chain.split_first()?;
        let key = || Key::from_info(&info_of(cert)?);
        if self.certs.iter().any(|known| known == cert) {
            return key();
        }
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(cert).ok()?,
            &self.roots,
            others,
            UnixTime::since_unix_epoch(Duration::from_secs(now)),
            provider.signature_verification_algorithms.all,
        )
        .ok()?;
        key()
    }
}

fn info_of(cert: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let parsed = ParsedCertificate::try_from(cert).ok()?;
    Some(parsed.subject_public_key_info().to_vec())
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    x5c: Option<Vec<String>>,
    /// Extensions that must be understood; none are.
    crit: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: Option<String>,
    aud: Audience,
    exp: f64,
    nbf: Option<f64>,
    #[serde(default)]
    access: Vec<Access>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
struct Access {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    actions: Vec<String>,
}

impl Service {
    pub fn new(options: &Options) -> Result<Service, Error> {
        let open = |path: &Option<PathBuf>, parse| {
            let path = path.as_deref();
            path.map(|path| Watched::open(path, parse)).transpose()
        };
        Ok(Service {
            realm: options.realm.clone(),
            service: options.service.clone(),
            issuer: options.issuer.clone(),
            certs: open(&options.certs, Keys::from_pem)?,
            jwks: open(&options.jwks, Keys::from_jwks)?,
        })
    }

    fn files(&self) -> impl Iterator<Item = &Watched<Keys>> {
        self.certs.iter().chain(&self.jwks)
    }

    pub fn reload(&self) {
        self.files().for_each(Watched::reload);
    }

    /// Another number whenever the keys have changed.
    pub fn generation(&self) -> u64 {
        self.files().map(Watched::generation).sum()
    }

    /// What a token grants, and until when.
    pub fn verify(&self, token: &str, now: u64) -> Result<(Scoped, u64), Refusal> {
        let (message, signature) = token.rsplit_once('.').ok_or(Refusal::Malformed)?;
        let (header, claims) = message.split_once('.').ok_or(Refusal::Malformed)?;
        let decode = |text: &str| BASE64.decode(text).map_err(|_| Refusal::Malformed);
        let (header, claims, signature) = (decode(header)?, decode(claims)?, decode(signature)?);
        let header: Header = serde_json::from_slice(&header).map_err(|_| Refusal::Malformed)?;
        if header.crit.is_some() {
            return Err(Refusal::Malformed);
        }
        let algorithm = Algorithm::by_name(&header.alg).ok_or(Refusal::Algorithm)?;
        let keys = self.keys(&header, now)?;
        let mut fitting = keys.iter().filter(|key| key.algorithm == algorithm).peekable();
        if fitting.peek().is_none() {
            return Err(Refusal::Algorithm);
        }
        if !fitting.any(|key| algorithm.verify(&key.bytes, message.as_bytes(), &signature)) {
            return Err(Refusal::Signature);
        }
        let claims: Claims = serde_json::from_slice(&claims).map_err(|_| Refusal::Malformed)?;
        self.check(&claims, now)?;
        let until = claims.exp as u64 + LEEWAY;
        Ok((scoped(claims), until))
    }

    /// The keys that the token may be signed with.
    fn keys(&self, header: &Header, now: u64) -> Result<Vec<Key>, Refusal> {
        if let Some(chain) = &header.x5c {
            if chain.len() > CHAIN_MAX {
                return Err(Refusal::Chain);
            }
            let chain: Result<Vec<_>, _> = chain.iter().map(|cert| STANDARD.decode(cert)).collect();
            let chain = chain.map_err(|_| Refusal::Malformed)?;
            let chain: Vec<_> = chain.into_iter().map(CertificateDer::from).collect();
            let certs = self.certs.as_ref().map(Watched::get);
            let key = certs.and_then(|certs| certs.of_chain(&chain, now));
            return Ok(vec![key.ok_or(Refusal::Chain)?]);
        }
        let files: Vec<Arc<Keys>> = self.files().map(Watched::get).collect();
        let keys = files.iter().flat_map(|file| &file.keys);
        let named: Vec<Key> = match &header.kid {
            Some(kid) => keys.filter(|key| key.ids.contains(kid)).cloned().collect(),
            None => keys.cloned().collect(),
        };
        if named.is_empty() || named.len() > KEYS_TRIED {
            return Err(Refusal::Key);
        }
        Ok(named)
    }

    fn check(&self, claims: &Claims, now: u64) -> Result<(), Refusal> {
        let (now, leeway) = (now as f64, LEEWAY as f64);
        if claims.exp + leeway <= now {
            return Err(Refusal::Expired);
        }
        if claims.nbf.is_some_and(|nbf| nbf - leeway > now) {
            return Err(Refusal::Early);
        }
        if claims.iss != self.issuer {
            return Err(Refusal::Issuer);
        }
        let audience = match &claims.aud {
            Audience::One(audience) => std::slice::from_ref(audience),
            Audience::Several(audiences) => audiences,
        };
        if !audience.contains(&self.service) {
            return Err(Refusal::Audience);
        }
        Ok(())
    }
}

fn scoped(claims: Claims) -> Scoped {
    let mut scoped = Scoped {
        subject: claims.sub.filter(|sub| !sub.is_empty()).map(Arc::from),
        ..Scoped::default()
    };
    for access in claims.access {
        let has = |action: &str| access.actions.iter().any(|a| a == action || a == "*");
        match access.kind.as_str() {
            "registry" if access.name == "catalog" => scoped.catalog |= has("*"),
            "repository" => {
                // One that is not a name grants nothing.
                if let Ok(repository) = access.name.parse::<Repository>() {
                    let rights = [Right::Pull, Right::Push, Right::Delete];
                    let rights = rights.into_iter().filter(|right| has(right.action()));
                    scoped.repositories.push((repository, rights.collect()));
                }
            }
            // Of other kinds there is nothing here.
            _ => {}
        }
    }
    scoped
}

#[cfg(test)]
mod tests;

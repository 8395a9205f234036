use std::fs;

use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData, SigningKey,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

const NOW: u64 = 1_700_000_000;

/// RFC 7515, A.2 and A.3, and RFC 8037, A.4: keys and what they have signed.
#[test]
fn known_signatures() {
    let ec = json!({"kty": "EC", "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"});
    let ec_jws = "eyJhbGciOiJFUzI1NiJ9.\
        eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
        DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    let ed =
        json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    let ed_jws = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.\
        hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    for (jwk, jws, name) in [(ec, ec_jws, "ES256"), (ed, ed_jws, "EdDSA")] {
        let key = Key::from_jwk(&serde_json::from_value(jwk).unwrap()).unwrap();
        assert_eq!(key.algorithm.name, name);
        let (message, signature) = jws.rsplit_once('.').unwrap();
        let mut signature = BASE64.decode(signature).unwrap();
        let verify = |message: &str, signature: &[u8]| {
            key.algorithm.verify(&key.bytes, message.as_bytes(), signature)
        };
        assert!(verify(message, &signature), "{name}");
        assert!(!verify(&message.replace('e', "f"), &signature), "{name}");
        signature[20] ^= 1;
        assert!(!verify(message, &signature), "{name}");
        assert!(!verify(message, &[]), "{name}");
    }
}

/// By libtrust's own test data there is one key with this id; its form is what
/// matters: twelve groups of four.
#[test]
fn ids_of_keys() {
    let id = libtrust_id(b"");
    // The SHA-256 of nothing begins with e3b0c44298; in base32 4OYMIQUY.
    assert!(id.starts_with("4OYM:IQUY:"), "{id}");
    assert_eq!(id.len(), 12 * 4 + 11);
    assert_eq!(id.split(':').filter(|group| group.len() == 4).count(), 12);
}

/// Somebody who signs tokens.
struct Signer {
    pair: KeyPair,
    alg: &'static str,
}

impl Signer {
    fn all() -> Vec<Signer> {
        let kinds: [(_, &str); 3] = [
            (&PKCS_RSA_SHA256, "RS256"),
            (&PKCS_ECDSA_P256_SHA256, "ES256"),
            (&PKCS_ED25519, "EdDSA"),
        ];
        let pair = |(kind, alg)| Signer { pair: KeyPair::generate_for(kind).unwrap(), alg };
        kinds.into_iter().map(pair).collect()
    }

    fn info(&self) -> Vec<u8> {
        self.pair.subject_public_key_info()
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let [header, claims] = [header, claims].map(|part| BASE64.encode(part.to_string()));
        let message = format!("{header}.{claims}");
        let mut signature = self.pair.sign(message.as_bytes()).unwrap();
        if self.alg == "ES256" {
            signature = plain_numbers(&signature);
        }
        format!("{message}.{}", BASE64.encode(signature))
    }

    fn token(&self) -> String {
        self.sign(&json!({"alg": self.alg, "typ": "JWT"}), &claims())
    }
}

/// The two numbers of a DER signature, 32 bytes each.
fn plain_numbers(der: &[u8]) -> Vec<u8> {
    let mut rest = &der[2..];
    let mut numbers = Vec::new();
    for _ in 0..2 {
        let length = usize::from(rest[1]);
        let number = &rest[2..2 + length];
        let number = number.strip_prefix(&[0]).unwrap_or(number);
        numbers.extend(vec![0; 32 - number.len()]);
        numbers.extend(number);
        rest = &rest[2 + length..];
    }
    numbers
}

fn claims() -> Value {
    json!({
        "iss": "issuer", "sub": "ann", "aud": "registry.test", "exp": NOW + 300, "nbf": NOW - 10, "iat": NOW, "jti": "x",
        "access": [
            {"type": "repository", "name": "team/app", "actions": ["pull", "push"]},
            {"type": "repository", "name": "team/all", "actions": ["*"]},
            {"type": "repository", "name": "Not A Name", "actions": ["*"]},
            {"type": "repository(plugin)", "name": "team/plugin", "actions": ["*"]},
            {"type": "registry", "name": "catalog", "actions": ["*"]},
        ],
    })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => claims[name] = value,
    }
    claims
}

fn service(dir: &TempDir, pem: Option<&str>, jwks: Option<&str>) -> Result<Service, Error> {
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    Service::new(&Options {
        realm: "https://auth.test/token".to_owned(),
        service: "registry.test".to_owned(),
        issuer: "issuer".to_owned(),
        certs: pem.map(|text| write("certs", text)),
        jwks: jwks.map(|text| write("jwks", text)),
    })
}

fn pems(signers: &[Signer]) -> String {
    signers.iter().map(|signer| signer.pair.public_key_pem()).collect()
}

#[test]
fn what_is_granted() {
    let dir = TempDir::new().unwrap();
    let signers = Signer::all();
    let service = service(&dir, Some(&pems(&signers)), None).unwrap();
    for signer in &signers {
        let (scoped, until) = service.verify(&signer.token(), NOW).unwrap();
        assert_eq!((scoped.subject.as_deref(), until), (Some("ann"), NOW + 300 + LEEWAY));
        for (name, want) in [
            ("team/app", &[Right::Pull, Right::Push, Right::Catalog][..]),
            ("team/all", &[Right::Pull, Right::Push, Right::Delete, Right::Catalog]),
            ("team/plugin", &[Right::Catalog]),
            ("team/app/below", &[Right::Catalog]),
        ] {
            let name: Repository = name.parse().unwrap();
            for right in [Right::Pull, Right::Push, Right::Delete, Right::Catalog] {
                let covers = scoped.covers(&name, right);
                assert_eq!(covers, want.contains(&right), "{} {name} {right:?}", signer.alg);
            }
        }
        let id = libtrust_id(&signer.info());
        let named = signer.sign(&json!({"alg": signer.alg, "kid": id}), &claims());
        assert!(service.verify(&named, NOW).is_ok(), "{}", signer.alg);
        let several =
            signer.sign(&json!({"alg": signer.alg}), &with("aud", json!(["x", "registry.test"])));
        assert!(service.verify(&several, NOW).is_ok());
        let nothing = signer.sign(&json!({"alg": signer.alg}), &with("access", Value::Null));
        assert_eq!(service.verify(&nothing, NOW).unwrap().0.repositories, []);
    }
}

#[test]
fn what_is_refused() {
    let dir = TempDir::new().unwrap();
    let (signers, others) = (Signer::all(), Signer::all());
    let service = service(&dir, Some(&pems(&signers)), None).unwrap();
    for (signer, other) in signers.iter().zip(&others) {
        let alg = signer.alg;
        let header = json!({"alg": alg});
        let sign = |name: &str, value: Value| signer.sign(&header, &with(name, value));
        let token = signer.token();
        let (message, signature) = token.rsplit_once('.').unwrap();
        let claims_part = message.split('.').nth(1).unwrap();
        let none = BASE64.encode(r#"{"alg":"none"}"#);
        let other_claims = BASE64.encode(with("sub", json!("root")).to_string());
        // What takes a public key for the secret of an HMAC would verify this.
        let hs256 = |secret: &[u8]| {
            let header = BASE64.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
            let message = format!("{header}.{claims_part}");
            use hmac::{Hmac, KeyInit, Mac};
            let mut hmac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
            hmac.update(message.as_bytes());
            format!("{message}.{}", BASE64.encode(hmac.finalize().into_bytes()))
        };
        let elsewhere = if alg == "ES256" { "EdDSA" } else { "ES256" };
        for (token, want, why) in [
            (sign("exp", json!(NOW - LEEWAY)), Refusal::Expired, "expired"),
            (sign("exp", json!(-1)), Refusal::Expired, "long ago"),
            (sign("exp", Value::Null), Refusal::Malformed, "for ever"),
            (sign("exp", json!("2099")), Refusal::Malformed, "not a number"),
            (sign("nbf", json!(NOW + LEEWAY + 1)), Refusal::Early, "not yet"),
            (sign("iss", json!("Issuer")), Refusal::Issuer, "another issuer"),
            (sign("aud", json!("registry.test.")), Refusal::Audience, "another audience"),
            (sign("aud", json!([])), Refusal::Audience, "no audience"),
            (sign("access", json!("*")), Refusal::Malformed, "no list"),
            (other.token(), Refusal::Signature, "another key"),
            (format!("{none}.{claims_part}."), Refusal::Algorithm, "no signature"),
            (format!("{none}.{claims_part}.{signature}"), Refusal::Algorithm, "alg none"),
            (hs256(&signer.info()), Refusal::Algorithm, "HS256 by the key's DER"),
            (
                hs256(signer.pair.public_key_pem().as_bytes()),
                Refusal::Algorithm,
                "HS256 by the key's PEM",
            ),
            (
                signer.sign(&json!({"alg": elsewhere}), &claims()),
                Refusal::Signature,
                "another algorithm than the key's",
            ),
            (
                signer.sign(&json!({"alg": "RS512"}), &claims()),
                Refusal::Algorithm,
                "no algorithm of ours",
            ),
            (
                signer.sign(&json!({"alg": alg, "kid": "x"}), &claims()),
                Refusal::Key,
                "an unknown key",
            ),
            (
                signer.sign(&json!({"alg": alg, "kid": libtrust_id(&other.info())}), &claims()),
                Refusal::Key,
                "another's key",
            ),
            (
                signer.sign(&json!({"alg": alg, "crit": ["exp"], "exp": 1}), &claims()),
                Refusal::Malformed,
                "crit",
            ),
            (
                signer.sign(&json!({"alg": alg, "x5c": []}), &claims()),
                Refusal::Chain,
                "an empty chain",
            ),
            (
                signer.sign(&json!({"alg": alg, "x5c": ["AAAA"]}), &claims()),
                Refusal::Chain,
                "no certificate",
            ),
            (
                signer.sign(&json!({"alg": alg, "x5c": vec!["AAAA"; 11]}), &claims()),
                Refusal::Chain,
                "too long a chain",
            ),
            (token.replacen(claims_part, &other_claims, 1), Refusal::Signature, "other claims"),
            (format!("{message}."), Refusal::Signature, "an empty signature"),
            (format!("{message}.{signature}="), Refusal::Malformed, "padding"),
            (message.to_owned(), Refusal::Malformed, "two parts"),
            (format!("{token}.x"), Refusal::Malformed, "four parts"),
            (String::new(), Refusal::Malformed, "nothing"),
            ("..".to_owned(), Refusal::Malformed, "three nothings"),
        ] {
            assert_eq!(service.verify(&token, NOW).map(drop), Err(want), "{alg}: {why}");
        }
        assert!(service.verify(&sign("exp", json!(NOW - LEEWAY + 1)), NOW).is_ok());
        assert!(service.verify(&sign("nbf", json!(NOW + LEEWAY)), NOW).is_ok());
    }
}

#[test]
fn key_sets() {
    let dir = TempDir::new().unwrap();
    let signers = Signer::all();
    let jwk = |signer: &Signer, kid: &str| {
        let info = signer.info();
        let (_, key) = der::public_key(&info).unwrap();
        match signer.alg {
            "ES256" => json!({"kty": "EC", "crv": "P-256", "kid": kid,
                "x": BASE64.encode(&key[1..33]), "y": BASE64.encode(&key[33..])}),
            "EdDSA" => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": BASE64.encode(key), "use": "sig"})
            }
            _ => {
                // 2048 bits, after the heads of the sequence and of the number.
                let n = &key[9..9 + 256];
                json!({"kty": "RSA", "kid": kid, "alg": "RS256", "n": BASE64.encode(n), "e": "AQAB"})
            }
        }
    };
    let mut keys: Vec<Value> = signers.iter().map(|signer| jwk(signer, signer.alg)).collect();
    keys.push(json!({"kty": "oct", "kid": "secret", "k": "AAAA"}));
    keys.push(json!({"kty": "EC", "crv": "P-384", "kid": "long"}));
    let text = json!({"keys": keys}).to_string();
    let set = service(&dir, None, Some(&text)).unwrap();
    for signer in &signers {
        let by = |kid: &str| {
            let token = signer.sign(&json!({"alg": signer.alg, "kid": kid}), &claims());
            set.verify(&token, NOW).map(drop)
        };
        assert_eq!(by(signer.alg), Ok(()), "{}", signer.alg);
        assert_eq!(set.verify(&signer.token(), NOW).map(drop), Ok(()), "{}", signer.alg);
        assert_eq!(by("secret"), Err(Refusal::Key));
        let other = if signer.alg == "RS256" { "ES256" } else { "RS256" };
        assert_eq!(by(other), Err(Refusal::Algorithm), "a key of another kind");
    }
    for (text, why) in [
        ("{}", "no keys"),
        (r#"{"keys": []}"#, "no key"),
        (r#"{"keys": [{"kty": "oct", "k": "AAAA"}]}"#, "none of ours"),
        (
            r#"{"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]}"#,
            "a point of two bytes",
        ),
        (
            r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AA", "use": "enc"}]}"#,
            "for another use",
        ),
        ("", "nothing"),
    ] {
        assert!(service(&dir, None, Some(text)).is_err(), "{why}");
    }
    for text in ["", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        assert!(service(&dir, Some(text), None).is_err(), "{text}");
    }
    let long = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let error = service(&dir, Some(&long.public_key_pem()), None).unwrap_err();
    assert!(error.to_string().contains("P-256"), "{error}");
}

#[test]
fn chains() {
    let dir = TempDir::new().unwrap();
    let authority = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let cert = params.self_signed(&key).unwrap();
        (cert, Issuer::new(params, key))
    };
    let (root, root_issuer) = authority("root");
    let (_, stranger) = authority("stranger");
    for signer in Signer::all() {
        let leaf = |by: &Issuer<'_, KeyPair>| {
            let params = CertificateParams::new(vec!["signer".to_owned()]).unwrap();
            params.signed_by(&signer.pair, by).unwrap()
        };
        let middle_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["middle".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let middle = params.signed_by(&middle_key, &root_issuer).unwrap();
        let middle_issuer = Issuer::new(params, middle_key);

        let by_root = service(&dir, Some(&root.pem()), None).unwrap();
        let verify = |service: &Service, chain: &[&rcgen::Certificate]| {
            let chain: Vec<String> = chain.iter().map(|cert| STANDARD.encode(cert.der())).collect();
            let header = json!({"alg": signer.alg, "x5c": chain});
            // The certificates are of today.
            let mut claims = claims();
            claims["exp"] = json!(4_000_000_000_u64);
            service.verify(&signer.sign(&header, &claims), 1_790_000_000).map(drop)
        };
        let direct = leaf(&root_issuer);
        assert_eq!(verify(&by_root, &[&direct]), Ok(()), "{}", signer.alg);
        let below = leaf(&middle_issuer);
        assert_eq!(verify(&by_root, &[&below, &middle]), Ok(()));
        assert_eq!(verify(&by_root, &[&below]), Err(Refusal::Chain), "a gap");
        assert_eq!(verify(&by_root, &[&leaf(&stranger)]), Err(Refusal::Chain));
        assert_eq!(verify(&by_root, &[&leaf(&stranger), &root]), Err(Refusal::Chain));
        // The authority's own certificate is known, but it has not signed this.
        let own = verify(&by_root, &[&root]);
        assert!(matches!(own, Err(Refusal::Signature | Refusal::Algorithm)), "{own:?}");

        // The signer's certificate itself, as most services have it.
        let itself = CertificateParams::new(vec!["signer".to_owned()]).unwrap();
        let itself = itself.self_signed(&signer.pair).unwrap();
        let by_itself = service(&dir, Some(&itself.pem()), None).unwrap();
        assert_eq!(verify(&by_itself, &[&itself]), Ok(()));
        assert_eq!(verify(&by_itself, &[&direct]), Err(Refusal::Chain));
        assert!(by_itself.verify(&signer.token(), NOW).is_ok(), "by its key");
    }
}

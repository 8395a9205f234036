//! A certificate authority of the tests' own.

use std::fs;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::common::Registry;
use crate::common::home::Home;

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The file with its certificate, alone in a folder.
    pub file: String,
    pub folder: String,
    /// What its registry serves with.
    pub server_cert: String,
    pub server_key: String,
}

impl Authority {
    pub fn new(home: &Home, name: &str) -> Authority {
        let mut params = CertificateParams::new([]).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages.push(KeyUsagePurpose::KeyCertSign);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let folder = home.path(name);
        let file = format!("{folder}/ca.crt");
        fs::create_dir(&folder).expect("a folder");
        fs::write(&file, certificate.pem()).expect("a file");
        Authority {
            issuer: Issuer::new(params, key),
            file,
            server_cert: format!("{folder}-server.crt"),
            server_key: format!("{folder}-server.key"),
            folder,
        }
    }

    /// Certificate chain and key of a server on this machine, in PEM.
    pub fn issue(&self) -> (String, String) {
        let names = ["localhost", "127.0.0.1", "0.0.0.0"].map(str::to_owned);
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(names)
            .and_then(|params| params.signed_by(&key, &self.issuer))
            .expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    /// Starts a registry with a certificate of this authority.
    pub fn registry(&self) -> Registry {
        let (certificate, key) = self.issue();
        fs::write(&self.server_cert, certificate).expect("a file");
        fs::write(&self.server_key, key).expect("a file");
        let (cert, key) = (&self.server_cert, &self.server_key);
        Registry::start(&["--tls-cert", cert, "--tls-key", key])
    }
}

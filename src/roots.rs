//! The certificates of authorities that this program trusts when it connects to other servers.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use ureq::tls::{Certificate, RootCerts};

/// Where systems keep the certificates they trust.
const FILES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Reads the certificates in `file`, which is PEM, or else those of the system. An error says which
/// file cannot be read, or that there is none.
pub fn roots(file: Option<&Path>) -> Result<RootCerts> {
    let path = match file {
        Some(path) => path.to_owned(),
        None => FILES.into_iter().map(PathBuf::from).find(|path| path.is_file()).context(
            "this machine has no certificates of authorities, which https needs: install \
             ca-certificates, or name a file in SSL_CERT_FILE",
        )?,
    };
    let read = |path: &Path| {
        let certificates = CertificateDer::pem_file_iter(path)?;
        certificates.collect::<Result<Vec<_>, _>>()
    };
    let certificates = read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(!certificates.is_empty(), "{} holds no certificate", path.display());
    let own = |certificate: &CertificateDer| Certificate::from_der(certificate).to_owned();
    Ok(RootCerts::from(certificates.iter().map(own).collect::<Vec<_>>()))
}

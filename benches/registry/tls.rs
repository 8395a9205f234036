//! The client's side of TLS, without copies but one: rustls decrypts in the
//! buffer that the socket filled.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use rustls::client::UnbufferedClientConnection;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};

/// One read asks for so much.
const BUFFER: usize = 512 << 10;
/// More than a record, and more than a client's part of a handshake.
const RECORD: usize = 32 << 10;
const HOST: &str = "localhost";

/// A certificate for both servers, and a client that trusts it.
#[derive(Debug)]
pub struct Certificate {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub client: Arc<ClientConfig>,
}

impl Certificate {
    /// ECDSA P-256; the client offers nothing but HTTP/1.1 over TLS 1.3 with
    /// AES-128-GCM, so that both servers do the same work.
    pub fn write(folder: &Path) -> Result<Certificate> {
        let made = rcgen::generate_simple_self_signed([HOST.to_owned()])?;
        let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
        std::fs::write(&cert, made.cert.pem())?;
        std::fs::write(&key, made.signing_key.serialize_pem())?;
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone())?;
        let provider = CryptoProvider {
            cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
            ..aws_lc_rs::default_provider()
        };
        let mut client = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        let client = Arc::new(client);
        Ok(Certificate { cert, key, client })
    }
}

pub struct Tls {
    connection: UnbufferedClientConnection,
    buffer: Vec<u8>,
    /// The part of `buffer` that was received and not yet used.
    start: usize,
    end: usize,
    /// Encrypted, to be sent.
    outgoing: Vec<u8>,
}

#[derive(PartialEq)]
enum State {
    Handshake,
    Open,
}

impl Tls {
    pub fn handshake(config: Arc<ClientConfig>, stream: &mut TcpStream) -> Result<Tls> {
        let mut tls = Tls {
            connection: UnbufferedClientConnection::new(config, ServerName::try_from(HOST)?)?,
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            outgoing: vec![0; RECORD],
        };
        while tls.process(stream, None, |_| ())? == State::Handshake {
            tls.fill(stream)?;
        }
        Ok(tls)
    }

    /// Sends what fits into one record.
    pub fn send(&mut self, stream: &mut TcpStream, bytes: &[u8]) -> Result<()> {
        self.process(stream, Some(bytes), |_| ()).map(|_| ())
    }

    /// Waits for bytes and hands over what they decrypt to, if that is anything
    /// yet.
    pub fn receive(&mut self, stream: &mut TcpStream, take: impl FnMut(&[u8])) -> Result<()> {
        self.fill(stream)?;
        self.process(stream, None, take).map(|_| ())
    }

    fn fill(&mut self, stream: &mut TcpStream) -> Result<()> {
        // At most a part of a record is left.
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let n = stream.read(&mut self.buffer[self.end..])?;
        ensure!(n > 0, "the server closed the connection");
        self.end += n;
        Ok(())
    }

    /// Goes through all that was received; then sends `message`.
    fn process(
        &mut self,
        stream: &mut TcpStream,
        message: Option<&[u8]>,
        mut take: impl FnMut(&[u8]),
    ) -> Result<State> {
        let mut encoded = 0;
        loop {
            let received = &mut self.buffer[self.start..self.end];
            let UnbufferedStatus { mut discard, state, .. } =
                self.connection.process_tls_records(received);
            let mut reached = None;
            match state? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        take(record.payload);
                    }
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    encoded += data.encode(&mut self.outgoing[encoded..])?;
                }
                ConnectionState::TransmitTlsData(data) => {
                    stream.write_all(&self.outgoing[..encoded])?;
                    encoded = 0;
                    data.done();
                }
                ConnectionState::WriteTraffic(mut traffic) => {
                    if let Some(message) = message {
                        let n = traffic.encrypt(message, &mut self.outgoing)?;
                        stream.write_all(&self.outgoing[..n])?;
                    }
                    reached = Some(State::Open);
                }
                ConnectionState::BlockedHandshake => reached = Some(State::Handshake),
                other => bail!("the server ends the TLS session: {other:?}"),
            }
            self.start += discard;
            if let Some(state) = reached {
                return Ok(state);
            }
        }
    }
}

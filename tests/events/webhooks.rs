//! Webhooks: distribution's notifications, to endpoints that fail, hang, and come
//! back.

use std::collections::HashSet;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use registry::oci::Algorithm;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{OCI_CONFIG, OCI_MANIFEST, Registry, descriptor, eventually, image_manifest};
use crate::support::{METRICS, metric, push};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Takes,
    Fails,
    /// Reads and does not answer.
    Hangs,
}

/// What an endpoint has taken, and how it is.
#[derive(Debug)]
struct Book {
    mood: Mood,
    /// Heads of requests, and their events.
    taken: Vec<(Vec<String>, Vec<Value>)>,
    /// Requests that were not taken.
    refused: usize,
}

/// An endpoint. Dropped, it is away; what it has taken stays.
struct Endpoint {
    address: SocketAddr,
    book: Arc<Mutex<Book>>,
    away: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Endpoint {
    fn new(mood: Mood) -> Endpoint {
        let book = Book { mood, taken: Vec::new(), refused: 0 };
        Endpoint::at("127.0.0.1:0".parse().unwrap(), Arc::new(Mutex::new(book)), None)
    }

    fn at(
        address: SocketAddr,
        book: Arc<Mutex<Book>>,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Endpoint {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let away = Arc::new(AtomicBool::new(false));
        let thread = {
            let (book, away) = (Arc::clone(&book), Arc::clone(&away));
            thread::spawn(move || {
                for stream in listener.incoming() {
                    if away.load(Ordering::SeqCst) {
                        return;
                    }
                    let (stream, book, away) =
                        (stream.unwrap(), Arc::clone(&book), Arc::clone(&away));
                    let tls = tls.clone();
                    thread::spawn(move || {
                        // The server may end, or give up.
                        drop(match tls {
                            None => serve(stream, &book, &away),
                            Some(config) => {
                                let tls = rustls::ServerConnection::new(config).unwrap();
                                serve(rustls::StreamOwned::new(tls, stream), &book, &away)
                            }
                        });
                    });
                }
            })
        };
        Endpoint { address, book, away, thread: Some(thread) }
    }

    fn url(&self) -> String {
        format!("http://{}/hook?token=in-the-url", self.address)
    }

    fn mood(&self, mood: Mood) {
        self.book.lock().unwrap().mood = mood;
    }

    fn refused(&self) -> usize {
        self.book.lock().unwrap().refused
    }

    /// The events it has taken, in order.
    fn events(&self) -> Vec<Value> {
        let book = self.book.lock().unwrap();
        book.taken.iter().flat_map(|(_, events)| events.clone()).collect()
    }

    /// The tags among them.
    fn tags(&self) -> Vec<String> {
        let events = self.events();
        let tags = events.iter().filter_map(|event| event["target"]["tag"].as_str());
        tags.map(str::to_owned).collect()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.away.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        self.thread.take().unwrap().join().unwrap();
    }
}

/// One connection.
fn serve(stream: impl Read + Write, book: &Mutex<Book>, away: &AtomicBool) -> io::Result<()> {
    let mut wire = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (Vec::new(), 0);
        loop {
            let mut line = String::new();
            if wire.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line == "\r\n" {
                break;
            }
            let line = line.trim_end().to_owned();
            if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
                length = value.parse().unwrap();
            }
            head.push(line);
        }
        let mut body = vec![0; length];
        wire.read_exact(&mut body)?;
        let status = {
            let mut book = book.lock().unwrap();
            if book.mood == Mood::Takes && !away.load(Ordering::SeqCst) {
                let envelope: Value = serde_json::from_slice(&body).expect("JSON");
                let events = envelope["events"].as_array().expect("events").clone();
                book.taken.push((head, events));
                "200 OK"
            } else {
                book.refused += 1;
                "503 Service Unavailable"
            }
        };
        // For ever, as far as the server can tell.
        while book.lock().unwrap().mood == Mood::Hangs {
            thread::sleep(Duration::from_millis(50));
        }
        if away.load(Ordering::SeqCst) {
            return Ok(());
        }
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok");
        wire.get_mut().write_all(answer.as_bytes())?;
        wire.get_mut().flush()?;
    }
}

/// Pushes images that differ, under the tags `tFIRST…`.
fn push_some(registry: &Registry, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let config = format!(r#"{{"n":{number}}}"#);
        let digest = registry.push_blob("team/app", config.as_bytes());
        let manifest = image_manifest(&descriptor(OCI_CONFIG, &digest, config.len()), &[]);
        let tag = format!("t{number}");
        let reply = registry.push_manifest("team/app", &tag, OCI_MANIFEST, manifest.as_bytes());
        assert_eq!(reply.status, 201);
    }
}

fn tags(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("t{number}")).collect()
}

#[test]
fn the_envelope() {
    let endpoint = Endpoint::new(Mood::Takes);
    let temp = TempDir::new().unwrap();
    let secrets = temp.path().join("headers");
    fs::write(&secrets, "Authorization: Bearer from-a-file\n\nX-Two: 2\n").unwrap();
    let (url, file) = (endpoint.url(), format!("@{}", secrets.display()));
    let public = "https://registry.example.org";
    let arguments = ["--notify-header", &file, "--public-url", public];
    let mut command = Registry::command(temp.path(), &arguments);
    command.env("REGISTRY_NOTIFY", url).env("NO_PROXY", "*");
    let registry = Registry::spawn(temp.path(), command);
    let image = push(&registry, "team/app", "1.0", "a", b"1");
    for path in [
        "manifests/1.0".to_owned(),
        format!("manifests/{}", image.manifest),
        format!("blobs/{}", image.layer),
    ] {
        assert_eq!(registry.delete(&format!("/v2/team/app/{path}")).status, 202);
    }
    eventually("all came", || endpoint.events().len() == 5);
    let size = |path: &str| registry.dir.join(path).metadata().unwrap().len();
    let data = |digest: &registry::oci::Digest| {
        let hex = digest.hex();
        size(&format!("layers/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
    };
    let target = |media_type: &str, part: &str, digest: &registry::oci::Digest| {
        json!({"mediaType": media_type, "digest": digest.to_string(), "repository": "team/app",
            "size": data(digest), "length": data(digest),
            "url": format!("https://registry.example.org/v2/team/app/{part}/{digest}")})
    };
    let mut tagged = target(OCI_MANIFEST, "manifests", &image.manifest);
    tagged["tag"] = "1.0".into();
    let deleted = |digest: &registry::oci::Digest| json!({"digest": digest.to_string(), "repository": "team/app"});
    let want = [
        ("push", "PUT", target("application/octet-stream", "blobs", &image.layer)),
        ("push", "PUT", tagged),
        ("delete", "DELETE", json!({"repository": "team/app", "tag": "1.0"})),
        ("delete", "DELETE", deleted(&image.manifest)),
        ("delete", "DELETE", deleted(&image.layer)),
    ];
    let mut ids = HashSet::new();
    for (event, (action, method, target)) in endpoint.events().iter().zip(want) {
        assert_eq!((&event["action"], &event["target"]), (&action.into(), &target));
        let request = &event["request"];
        assert_eq!(
            (request["method"].as_str(), request["host"].as_str()),
            (Some(method), Some("registry.example.org"))
        );
        assert!(request["addr"].as_str().unwrap().starts_with("127.0.0.1:"));
        let id = request["id"].as_str().unwrap();
        eventually("the log has it", || registry.log().contains(id));
        assert!(ids.insert(event["id"].as_str().unwrap().to_owned()));
    }
    let book = endpoint.book.lock().unwrap();
    let head = &book.taken[0].0;
    assert_eq!(head[0], "POST /hook?token=in-the-url HTTP/1.1");
    let header = |name: &str| {
        head.iter().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    };
    assert_eq!(header("content-type"), Some("application/vnd.docker.distribution.events.v2+json"));
    assert_eq!(header("authorization"), Some("Bearer from-a-file"));
    assert_eq!(header("x-two"), Some("2"));
    assert!(!registry.log().contains("in-the-url"));
}

/// Whatever the endpoint does meanwhile, it gets everything, once and in order,
/// and no push waits for it.
#[test]
fn an_endpoint_that_fails_hangs_and_comes_back() {
    let endpoint = Endpoint::new(Mood::Fails);
    let well = Endpoint::new(Mood::Takes);
    let (url, other) = (endpoint.url(), well.url());
    let temp = TempDir::new().unwrap();
    let arguments = [&["--notify", url.as_str(), "--notify", &other], &METRICS[..]].concat();
    let mut command = Registry::command(temp.path(), &arguments);
    command.env("NO_PROXY", "*");
    let registry = Registry::spawn(temp.path(), command);
    push_some(&registry, 0..5);
    eventually("it is tried again", || endpoint.refused() >= 2);
    endpoint.mood(Mood::Hangs);
    let refused = endpoint.refused();
    eventually("it hangs", || endpoint.refused() > refused);
    let start = Instant::now();
    push_some(&registry, 5..10);
    // The server gives it five seconds.
    eventually("it is given up and tried again", || endpoint.refused() > refused + 1);
    assert!(start.elapsed() > Duration::from_secs(2));
    // Away, so that connections are refused.
    let (address, book) = (endpoint.address, Arc::clone(&endpoint.book));
    book.lock().unwrap().mood = Mood::Takes;
    drop(endpoint);
    push_some(&registry, 10..15);
    // The other never noticed.
    eventually("the other has all", || well.tags() == tags(0..15));
    let failed = metric(&registry, "registry_notifications_total{result=\"failed\"}");
    assert!(failed >= 3, "{failed}");

    let endpoint = Endpoint::at(address, book, None);
    eventually("it has all", || endpoint.tags().len() >= 15);
    assert_eq!(endpoint.tags(), tags(0..15));
    push_some(&registry, 15..16);
    eventually("and what comes then", || endpoint.tags() == tags(0..16));
    eventually("the log says so", || registry.log().contains("notifications are taken again"));
}

/// The server is killed while the endpoint is away, and while it sends.
#[test]
fn a_killed_server_loses_nothing() {
    let endpoint = Endpoint::new(Mood::Takes);
    let url = endpoint.url();
    let temp = TempDir::new().unwrap();
    let start = || {
        let mut command = Registry::command(temp.path(), &["--notify", &url]);
        command.env("NO_PROXY", "*");
        Registry::spawn(temp.path(), command)
    };
    let (address, book) = (endpoint.address, Arc::clone(&endpoint.book));
    drop(endpoint);
    let mut registry = start();
    push_some(&registry, 0..20);
    registry.kill();
    let endpoint = Endpoint::at(address, book, None);
    let mut registry = start();
    eventually("what was queued before came", || endpoint.tags() == tags(0..20));
    // In the middle of things: some may come twice.
    for round in 1..5 {
        push_some(&registry, round * 20..round * 20 + 20);
        registry.kill();
        registry = start();
    }
    let sent = |ids: &mut HashSet<String>| -> Vec<String> {
        let events = endpoint.events();
        let once = events.iter().filter(|event| ids.insert(event["id"].to_string()));
        once.filter_map(|event| event["target"]["tag"].as_str().map(str::to_owned)).collect()
    };
    eventually("all came", || sent(&mut HashSet::new()).len() >= 100);
    assert_eq!(sent(&mut HashSet::new()), tags(0..100));
    // An orderly stop sends nothing twice. What the kill left may still come again.
    let new = || {
        let all = endpoint.tags().into_iter();
        all.filter(|tag| tags(100..111).contains(tag)).collect::<Vec<_>>()
    };
    push_some(&registry, 100..110);
    assert!(registry.stop().success());
    let registry = start();
    eventually("all came", || new().len() >= 10);
    push_some(&registry, 110..111);
    eventually("the last came", || endpoint.tags().last().is_some_and(|tag| tag == "t110"));
    assert_eq!(new(), tags(100..111));
}

/// An index, and images by digest, which have no tag to be told by.
#[test]
fn manifests_without_a_tag() {
    let endpoint = Endpoint::new(Mood::Takes);
    let url = endpoint.url();
    let temp = TempDir::new().unwrap();
    let mut command = Registry::command(temp.path(), &["--notify", &url]);
    command.env("NO_PROXY", "*");
    let registry = Registry::spawn(temp.path(), command);
    let manifest = crate::support::bare(&registry, "a");
    let digest = Algorithm::Sha256.digest(manifest.as_bytes());
    let reply = registry.push_manifest("a", &digest.to_string(), OCI_MANIFEST, manifest.as_bytes());
    assert_eq!(reply.status, 201);
    eventually("it came", || endpoint.events().len() == 1);
    let target = &endpoint.events()[0]["target"];
    assert_eq!(target["digest"], digest.to_string());
    assert_eq!(target["tag"], Value::Null);
}

/// Over TLS, by an authority that the system trusts and one that it does not.
#[test]
fn over_tls() {
    let temp = TempDir::new().unwrap();
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(
        vec![key.cert.der().clone()],
        PrivateKeyDer::Pkcs8(key.signing_key.serialize_der().into()),
    )
    .unwrap();
    let book = Book { mood: Mood::Takes, taken: Vec::new(), refused: 0 };
    let address = "127.0.0.1:0".parse().unwrap();
    let endpoint = Endpoint::at(address, Arc::new(Mutex::new(book)), Some(Arc::new(config)));
    let url = format!("https://localhost:{}/", endpoint.address.port());
    let start = |roots: &str| {
        let mut command = Registry::command(temp.path(), &["--notify", &url]);
        command.env("NO_PROXY", "*").env("SSL_CERT_FILE", roots);
        Registry::spawn(temp.path(), command)
    };
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let [trusted, wrong] = [(&key.cert, "trusted"), (&other.cert, "wrong")].map(|(cert, name)| {
        let path = temp.path().join(name);
        fs::write(&path, cert.pem()).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let mut registry = start(&wrong);
    push_some(&registry, 0..1);
    eventually("it is refused", || registry.log().contains("a notification is tried again"));
    assert!(registry.stop().success());
    let registry = start(&trusted);
    eventually("it came", || endpoint.tags() == tags(0..1));
    push_some(&registry, 1..3);
    eventually("they came", || endpoint.tags() == tags(0..3));
}

//! Clients that mean harm: they vanish, stand still, or take everything. Beside them another address
//! is served within a second, and afterwards everything they had is free again.

#[path = "../common/mod.rs"]
mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::tar::Tar;
use common::{
    OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Registry, Reply, descriptor, eventually, image_manifest,
    noise,
};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use registry::oci::{Algorithm, Digest};

/// What a well-behaved client waits at most beside all this.
const PROMPT: Duration = Duration::from_secs(1);
/// The other address, whose clients mean harm.
const EVIL: [u8; 4] = [127, 0, 0, 2];

/// A connection from the other address.
fn evil(registry: &Registry) -> TcpStream {
    let inet = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
    let inet = inet.expect("a socket");
    let [a, b, c, d] = EVIL;
    bind(std::os::fd::AsRawFd::as_raw_fd(&inet), &SockaddrIn::new(a, b, c, d, 0)).expect("bound");
    let SocketAddr::V4(address) = registry.address else { panic!("IPv4") };
    connect(std::os::fd::AsRawFd::as_raw_fd(&inet), &SockaddrIn::from(address)).expect("connected");
    TcpStream::from(inet)
}

/// Ends a connection with a reset, as a process does that is killed with bytes unread.
fn reset(stream: TcpStream) {
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&stream, sockopt::Linger, &linger).expect("an option");
    drop(stream);
}

struct Served {
    registry: Registry,
    blob: Digest,
    number: u32,
}

impl Served {
    fn new(arguments: &[&str]) -> Served {
        let mut registry = Registry::start(arguments);
        // The password that tests with users give to ann.
        registry.authorization = Some("Basic YW5uOnNlY3JldA==".into());
        Served { blob: registry.push_blob("good", &noise(1, 300_000)), registry, number: 0 }
    }

    /// What another address gets meanwhile.
    #[track_caller]
    fn assert_prompt(&mut self) {
        self.number += 1;
        let begun = Instant::now();
        let check = |what: &str, reply: Reply, want| {
            let took = begun.elapsed();
            assert_eq!(reply.status, want, "{what}: {}", reply.text());
            assert!(took < PROMPT, "{what}: {took:?}");
        };
        check("/healthz", self.registry.get("/healthz"), 200);
        let path = format!("/v2/good/blobs/{}", self.blob);
        check("a blob", self.registry.get(&path), 200);
        self.registry.push_blob("good", &noise(u64::from(self.number) + 100, 1000));
        let took = begun.elapsed();
        assert!(took < 2 * PROMPT, "a push: {took:?}");
    }

    fn status(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.registry.pid());
        let status = fs::read_to_string(path).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a field");
        line.trim().trim_end_matches("kB").trim().parse().expect("a number")
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.registry.pid())).expect("it runs").count()
    }

    #[track_caller]
    fn assert_free_again(&self, descriptors: usize) {
        eventually("the descriptors are free again", || self.descriptors() <= descriptors + 2);
        let resident = self.status("VmRSS:");
        assert!(resident < 256 << 10, "{resident} KiB");
    }
}

/// Hundreds of wrong logins whose clients are gone at once: they wait for their turn one after the
/// other, but they must not keep their connections meanwhile.
#[test]
fn logins_that_vanish() {
    let mut served = Served::new(&["--user", "ann:secret", "--anonymous", "pull"]);
    served.assert_prompt();
    let before = served.descriptors();
    for number in 0..600 {
        let mut stream = evil(&served.registry);
        let head = format!(
            "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic YW5uOndyb25n{}\r\n\r\n",
            if number % 2 == 0 { "" } else { "MQ==" },
        );
        stream.write_all(head.as_bytes()).expect("sent");
        match number % 3 {
            0 => reset(stream),
            1 => stream.shutdown(Shutdown::Write).expect("shut"),
            _ => drop(stream),
        }
    }
    served.assert_prompt();
    served.assert_free_again(before);
    served.assert_prompt();
}

/// 32 questions at a time that read every file, whose clients take nothing and then are gone: images
/// are pushed and pulled meanwhile, and afterwards no thread is left.
#[test]
fn questions_whose_clients_vanish() {
    let mut served = Served::new(&[]);
    let line = |number: u32| format!("line {number} of {:x}\n", number.wrapping_mul(0x9e37_79b9));
    let text: String = (0..400_000).map(line).collect();
    let layer = Tar::default().file("long", text.as_bytes()).finish();
    let (config, digest) = served_image(&served.registry, &layer, "good");
    served.assert_prompt();
    let ask = |stream: &mut TcpStream, question: &str| {
        let head = format!("GET /v2/_query/{question} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("sent");
    };
    let workers = |served: &Served| {
        let tasks = format!("/proc/{}/task", served.registry.pid());
        let names = fs::read_dir(tasks).expect("it runs").filter_map(|task| {
            // It may have ended meanwhile.
            fs::read_to_string(task.ok()?.path().join("comm")).ok()
        });
        names.filter(|name| name.trim() == "grep").count()
    };
    let before = served.descriptors();
    for round in 0..4 {
        let mut streams: Vec<_> = (0..32).map(|_| evil(&served.registry)).collect();
        for (number, stream) in streams.iter_mut().enumerate() {
            let question = match number % 4 {
                0 => "grep?pattern=line&limit=1000000",
                1 => "grep?pattern=no%20such%20line&index_skip=0",
                2 => "find?path=/**&limit=1000000",
                _ => "diff?a=good:1&b=good:1&limit=1000000",
            };
            ask(stream, question);
        }
        eventually("questions are answered", || workers(&served) > 0);
        for number in 0..3 {
            served.assert_prompt();
            let tag = format!("{round}-{number}");
            let pushed = served.registry.push_image("good", &tag, &tag);
            let path = format!("/v2/good/manifests/{tag}");
            let pulled = served.registry.get(&path);
            assert_eq!(Algorithm::Sha256.digest(&pulled.body), pushed);
            for blob in [&config, &digest] {
                let pulled = served.registry.get(&format!("/v2/good/blobs/{blob}"));
                assert_eq!(Algorithm::Sha256.digest(&pulled.body), *blob);
            }
        }
        for (number, stream) in streams.into_iter().enumerate() {
            match (number + round) % 3 {
                0 => reset(stream),
                1 => stream.shutdown(Shutdown::Both).expect("shut"),
                _ => drop(stream),
            }
        }
        eventually("no worker is left", || workers(&served) == 0);
    }
    served.assert_free_again(before);
    let answer = served.registry.get("/v2/_query/grep?pattern=^line%20399999%20&in=good").text();
    assert!(answer.contains("\"bound\":null"), "{answer}");
    assert_eq!(answer.matches("\"line\":").count(), 1, "{answer}");
}

/// Pushes an image of one layer, and waits for its index. Returns the digests of its config and layer.
fn served_image(registry: &Registry, layer: &[u8], repository: &str) -> (Digest, Digest) {
    let diff_id = Algorithm::Sha256.digest(layer);
    let config = format!(
        r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
    );
    let digests = [config.as_bytes(), layer].map(|blob| registry.push_blob(repository, blob));
    let manifest = image_manifest(
        &descriptor(OCI_CONFIG, &digests[0], config.len()),
        &[descriptor(OCI_LAYER, &digests[1], layer.len())],
    );
    let reply = registry.push_manifest(repository, "1", OCI_MANIFEST, manifest.as_bytes());
    assert_eq!(reply.status, 201, "{}", reply.text());
    eventually("it is indexed", || {
        registry.get("/v2/_query/find?name=none").text().contains("\"waiting_layers\":0")
    });
    (digests[0], digests[1])
}

/// One address gets half of the connections, and takes nothing from the others.
#[test]
fn connections_that_stay_open() {
    let mut served = Served::new(&["--max-connections", "40"]);
    let before = served.descriptors();
    let mut open: Vec<TcpStream> = (0..100).map(|_| evil(&served.registry)).collect();
    for stream in &mut open {
        // Those beyond the bound are closed by now.
        let _ = stream.write_all(b"GET /v2/ HTTP/1.1\r\nHo");
    }
    served.assert_prompt();
    let closed = open.iter_mut().filter_map(|stream| {
        stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(0) => Some(()),
            Ok(_) => panic!("an answer to half a head"),
            Err(e) if matches!(e.kind(), std::io::ErrorKind::ConnectionReset) => Some(()),
            Err(_) => None,
        }
    });
    assert_eq!(closed.count(), 80);
    drop(open);
    served.assert_free_again(before);
    served.assert_prompt();
}

/// Idle connections to the metrics do not use up the descriptors of the registry.
#[test]
fn connections_to_the_metrics() {
    let mut served = Served::new(&["--metrics-listen", "127.0.0.1:0"]);
    let before = served.descriptors();
    let address = served.registry.ready.split("metrics on http://").nth(1).expect("an address");
    let address: SocketAddr = address.split('/').next().unwrap().parse().expect("an address");
    let open: Vec<_> = (0..500).map(|_| TcpStream::connect(address)).collect();
    eventually("most are closed", || served.descriptors() < before + 100);
    served.assert_prompt();
    drop(open);
    served.assert_free_again(before);
}

/// Downloads that nobody reads, and that are given up: they hold permits of their own address alone.
#[test]
fn downloads_that_are_not_read() {
    let mut served = Served::new(&["--max-connections", "60"]);
    let large = served.registry.push_blob("good", &noise(9, 30 << 20));
    let before = served.descriptors();
    let mut open = Vec::new();
    for _ in 0..25 {
        let mut stream = evil(&served.registry);
        let head = format!("GET /v2/good/blobs/{large} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("sent");
        open.push(stream);
    }
    served.assert_prompt();
    assert!(served.status("VmRSS:") < 256 << 10);
    for stream in open {
        reset(stream);
    }
    served.assert_free_again(before);
}

/// Hundreds of streams of HTTP/2 that ask for large documents and read none of them.
#[test]
fn documents_that_are_not_read() {
    common::need("curl", "curl");
    let temp = tempfile::TempDir::new().expect("a folder");
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a key");
    let [cert, private] = ["cert.pem", "key.pem"].map(|name| temp.path().join(name));
    fs::write(&cert, key.cert.pem()).expect("a file");
    fs::write(&private, key.signing_key.serialize_pem()).expect("a file");
    // A plain server fills the store, because the harness speaks no TLS.
    let mut plain = Registry::start_in(temp.path(), &[]);
    for number in 0..24 {
        let padding = "x".repeat(3 << 20);
        let config = plain.push_blob("a", b"{}");
        let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": common::OCI_MANIFEST,
            "config": common::descriptor(common::OCI_CONFIG, &config, 2), "layers": [],
            "annotations": {"number": number.to_string(), "padding": padding}});
        let tag = number.to_string();
        let manifest = manifest.to_string();
        let reply = plain.push_manifest("a", &tag, common::OCI_MANIFEST, manifest.as_bytes());
        assert_eq!(reply.status, 201, "{}", reply.text());
    }
    assert!(plain.stop().success());
    let tls = ["--tls-cert", cert.to_str().unwrap(), "--tls-key", private.to_str().unwrap()];
    let served = Served {
        registry: Registry::start_in(temp.path(), &tls),
        blob: registry::oci::Algorithm::Sha256.digest(b""),
        number: 0,
    };
    let before = served.status("VmRSS:");
    let url = format!("https://localhost:{}", served.registry.address.port());
    let curls: Vec<_> = (0..12)
        .map(|_| {
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--insecure", "--http2", "--parallel", "--parallel-max", "30"]);
            // So slow that it reads next to nothing.
            curl.args(["--limit-rate", "100"]).stdout(Stdio::null()).stderr(Stdio::null());
            for number in 0..24 {
                curl.args(["-o", "/dev/null", &format!("{url}/v2/a/manifests/{number}")]);
            }
            curl.spawn().expect("curl runs")
        })
        .collect();
    // All of them have asked; more would only wait.
    let (mut peak, begun) = (0, Instant::now());
    while begun.elapsed() < Duration::from_secs(4) {
        peak = peak.max(served.status("VmRSS:"));
        std::thread::yield_now();
    }
    for mut curl in curls {
        drop(curl.kill());
        drop(curl.wait());
    }
    assert!(peak < 256 << 10, "{peak} KiB");
    eventually("memory returns", || served.status("VmRSS:") < before + (50 << 10));
}

//! Behind nginx, in the configurations that people use.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};

use tempfile::TempDir;

use crate::common::{OCI_MANIFEST, Registry, Reply, eventually, noise, send_to};
use crate::support::{EMPTY_JSON, bare_manifest, byte_ranges, closing, sha256};

/// An nginx in front of a registry.
struct Nginx {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl Nginx {
    /// `server`: what stands in nginx's `server` block.
    fn start(server: &str) -> Nginx {
        let folder = TempDir::new().expect("a temporary folder");
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.expect("a free port");
        let path = folder.path().display();
        let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary = kinds.map(|kind| format!("{kind}_temp_path {path}/{kind};")).concat();
        let configuration = format!(
            "daemon off; user root; pid {path}/pid; error_log {path}/log;\n\
             events {{}}\n\
             http {{ access_log off; {temporary} server {{ listen {address}; {server} }} }}\n"
        );
        std::fs::write(folder.path().join("nginx.conf"), configuration).expect("writable");
        let child = Nginx::command(folder.path()).spawn();
        let child = child.expect("install Debian's package nginx-light");
        let nginx = Nginx { child, address, folder };
        eventually("nginx listens", || TcpStream::connect(address).is_ok());
        nginx
    }

    fn command(folder: &Path) -> Command {
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-e").arg(folder.join("log")).arg("-c").arg(folder.join("nginx.conf"));
        command
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        send_to(self.address, method, path, headers, body).expect("an answer")
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master ends its workers; it may have ended before.
        drop(Nginx::command(self.folder.path()).args(["-s", "stop"]).status());
        drop(self.child.wait());
    }
}

#[test]
fn in_front() {
    let registry = Registry::start(&["--host", "registry.example"]);
    let upstream = registry.host();
    let forwarded = "proxy_set_header X-Real-IP $remote_addr; \
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; \
         proxy_set_header X-Forwarded-Proto $scheme;";
    let unbuffered = "client_max_body_size 0; proxy_request_buffering off; proxy_buffering off;";
    for (case, server) in [
        (
            "plain",
            format!("client_max_body_size 0; location / {{ proxy_pass http://{upstream}; }}"),
        ),
        (
            "decoded",
            format!("client_max_body_size 0; location / {{ proxy_pass http://{upstream}/; }}"),
        ),
        (
            "as documented",
            format!(
                "{unbuffered} location / {{ proxy_pass http://{upstream}; proxy_http_version 1.1; \
                 proxy_set_header Host $http_host; {forwarded} }}"
            ),
        ),
        (
            "decoded, forwarded",
            format!(
                "{unbuffered} location / {{ proxy_pass http://{upstream}/; \
                 proxy_set_header Host registry.example; {forwarded} }}"
            ),
        ),
        (
            "each api",
            format!(
                "{unbuffered} location /v1/ {{ proxy_pass http://{upstream}/v1/; }} \
                 location /v2/ {{ proxy_pass http://{upstream}/v2/; {forwarded} }}"
            ),
        ),
    ] {
        let nginx = Nginx::start(&server);
        let content = noise(20, 3_000_000);
        let digest = sha256(&content);
        let name = format!("team/{}", case.replace([',', ' '], ""));
        let encoded = name.replace('/', "%2F");
        assert_eq!(nginx.send("GET", "/v2/", &[], b"").status, 200, "{case}");

        let start = nginx.send("POST", &format!("/v2/{name}/blobs/uploads/"), &[], b"");
        assert_eq!(start.status, 202, "{case}: {}", start.text());
        let location = start.header("location").expect("a location");
        let part = nginx.send("PATCH", location, &[], &content);
        assert_eq!(part.status, 202, "{case}: {}", part.text());
        let location = part.header("location").expect("a location");
        let end = nginx.send("PUT", &closing(location, &digest), &[], b"");
        assert_eq!(end.status, 201, "{case}: {}", end.text());
        let pulled = nginx.send("GET", end.header("location").expect("a location"), &[], b"");
        assert!(pulled.body == content, "{case}");

        let manifest = bare_manifest(&registry, &name);
        let typed = [("Content-Type", OCI_MANIFEST)];
        for name in [&name, &encoded] {
            let path = format!("/v2/{name}/manifests/v1");
            let put = nginx.send("PUT", &path, &typed, manifest.as_bytes());
            assert_eq!(put.status, 201, "{case} {name}: {}", put.text());
            let get = nginx.send("GET", &path, &[], b"");
            assert_eq!(get.text(), manifest, "{case} {name}");
            let tags = nginx.send("GET", &format!("/v2/{name}/tags/list"), &[], b"");
            assert_eq!(tags.json()["tags"], serde_json::json!(["v1"]), "{case} {name}");
            let config = format!("/v2/{name}/blobs/{}", sha256(EMPTY_JSON));
            assert_eq!(nginx.send("GET", &config, &[], b"").body, EMPTY_JSON, "{case} {name}");
            // An image without layers has an empty root.
            for path in
                [format!("/v1/images/{name}:v1/tree/"), format!("/v2/{name}/_files/tree/v1/")]
            {
                let tree = nginx.send("GET", &path, &[], b"");
                assert_eq!(tree.status, 200, "{case} {path}: {}", tree.text());
            }
        }
        let catalog = nginx.send("GET", "/v2/_catalog", &[], b"").text();
        assert!(catalog.contains(&name), "{case}: {catalog}");

        let blob = format!("/v2/{encoded}/blobs/{digest}");
        let asked = [("Range", "bytes=5-9,1000-200000,2999999-")];
        let parts = nginx.send("GET", &blob, &asked, b"");
        assert_eq!(parts.status, 206, "{case}");
        let want = [5..10, 1000..200_001, 2_999_999..3_000_000];
        assert_eq!(byte_ranges(&parts, &content), want, "{case}");
        let deleted = nginx.send("DELETE", &blob, &[], b"");
        assert_eq!(deleted.status, 202, "{case}: {}", deleted.text());
    }
}

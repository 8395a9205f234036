//! Clients that check who they speak to.

use std::fs;
use std::path::Path;

use registry::oci::Algorithm;

use crate::authority::Authority;
use crate::common::home::Home;
use crate::common::{REGISTRY, Registry, eventually, noise};
use crate::layout::{Layout, blobs};

/// What curl exits with when it does not trust the certificate.
const UNTRUSTED: &str = "curl: (60)";

/// A blob of some size in the versions of HTTP, up and down.
#[test]
fn curl() {
    let home = Home::new();
    let authority = Authority::new(&home, "ours");
    let registry = authority.registry();
    let url = format!("https://{}", registry.host());
    let ping = format!("{url}/v2/");
    let refused = home.refused("curl", &["-sS", &ping]);
    assert!(refused.contains(UNTRUSTED), "{refused}");

    for (seed, option, header, version) in [
        (1, "--http1.1", "Accept: */*", "1.1"),
        (2, "--http1.1", "Transfer-Encoding: chunked", "1.1"),
        (3, "--http2", "Accept: */*", "2"),
    ] {
        let case = format!("{option} {header}");
        let curl = |arguments: &[&str]| {
            let common = ["-sS", option, "--cacert", &authority.file];
            home.run("curl", &[&common, arguments].concat())
        };
        let bytes = noise(seed, 20_000_000);
        let digest = Algorithm::Sha256.digest(&bytes);
        let [file, pulled] = ["file", "pulled"].map(|name| home.path(name));
        fs::write(&file, &bytes).expect("a file");

        // Where the upload goes on.
        let location = |answer: String| {
            let path = answer.strip_prefix(&format!("{version} 202 "));
            url.clone() + path.unwrap_or_else(|| panic!("{case}: {answer}"))
        };
        let status = "%{http_version} %{http_code}";
        let next = "%{http_version} %{http_code} %header{location}";
        let start = format!("{url}/v2/a/blobs/uploads/");
        let upload = location(curl(&["-X", "POST", "-w", next, &start]));
        let patch = ["-X", "PATCH", "-H", header, "-T", &file, "-w", next, &upload];
        let upload = location(curl(&patch));
        let put = format!("{upload}?digest={digest}");
        let done = curl(&["-X", "PUT", "-w", status, &put]);
        assert_eq!(done, format!("{version} 201"), "{case}");

        let blob = format!("{url}/v2/a/blobs/{digest}");
        for (range, want, part) in
            [(&[][..], "200", &bytes[..]), (&["-r", "10000000-"], "206", &bytes[10_000_000..])]
        {
            let get = ["-o", &pulled, "-w", status, &blob];
            let got = curl(&[range, &get].concat());
            assert_eq!(got, format!("{version} {want}"), "{case}");
            assert!(fs::read(&pulled).expect("a file") == part, "{case}");
        }
    }
}

#[test]
fn skopeo() {
    let home = Home::new();
    let [ours, other] = ["ours", "other"].map(|name| Authority::new(&home, name));
    let registry = ours.registry();
    let layout = Layout::make(&home.path("layout"), 1);
    let name = format!("docker://{}/team/app:1", registry.host());
    let copy = |authority: &Authority, from: &str, to: &str| {
        let [source, target] =
            ["src", "dest"].map(|end| format!("--{end}-cert-dir={}", authority.folder));
        ["copy", "--all", "--quiet", &source, &target, from, to].map(str::to_owned)
    };
    let refused = copy(&other, &layout.reference(), &name);
    let refused = home.refused("skopeo", &refused.each_ref().map(String::as_str));
    assert!(refused.contains("x509"), "{refused}");
    let pulled = home.path("pulled");
    for (from, to) in [(layout.reference(), name.clone()), (name, format!("oci:{pulled}:latest"))] {
        home.run("skopeo", &copy(&ours, &from, &to).each_ref().map(String::as_str));
    }
    assert_eq!(blobs(Path::new(&pulled)), layout.blobs());
}

/// Our own commands with `--server`.
#[test]
fn commands() {
    let home = Home::new();
    let [ours, other] = ["ours", "other"].map(|name| Authority::new(&home, name));
    let registry = ours.registry();
    let layout = Layout::make(&home.path("layout"), 1);
    let name = format!("docker://{}/team/app:1", registry.host());
    let folder = format!("--dest-cert-dir={}", ours.folder);
    home.run("skopeo", &["copy", "--all", "--quiet", &folder, &layout.reference(), &name]);
    let dir = registry.dir.to_str().expect("UTF-8");
    let command = |url: &str, authority: Option<&Authority>, arguments: &[&str]| {
        let arguments = [&arguments[..1], &["--server", url], &arguments[1..]].concat();
        let mut command = home.command(REGISTRY, &arguments);
        command.env_remove("SSL_CERT_FILE");
        if let Some(authority) = authority {
            command.env("SSL_CERT_FILE", &authority.file);
        }
        command.output().expect("it runs")
    };
    let url = format!("https://{}", registry.host());
    for arguments in [
        &["ls", "-lR", "team/app:1"][..],
        &["export", "team/app:1"],
        &["find"],
        &["grep", "-c", "."],
        &["waste", "team/app:1"],
    ] {
        let local = [&arguments[..1], &["--dir", dir], &arguments[1..]].concat();
        let local = home.command(REGISTRY, &local).output().expect("it runs");
        assert_eq!(command(&url, Some(&ours), arguments), local, "{arguments:?}");
    }
    let plain = format!("http://{}", registry.host());
    let open = Registry::start(&[]);
    let no_tls = format!("https://{}", open.host());
    let mut gone = Authority::new(&home, "gone");
    gone.file = home.path("none");
    for (url, authority, complaint) in [
        (&url, Some(&other), "is not trusted"),
        (&url, None, "is not trusted"),
        (&url, Some(&gone), "cannot read"),
        (&plain, Some(&ours), "write https://"),
        (&no_tls, Some(&ours), "write http://"),
    ] {
        let output = command(url, authority, &["ls", "team/app:1"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(complaint), "{complaint}: {stderr}");
    }
}

/// The certificate is read again on SIGHUP, and kept when that fails.
#[test]
fn reload() {
    let home = Home::new();
    let [old, new] = ["old", "new"].map(|name| Authority::new(&home, name));
    let registry = old.registry();
    let [certificate, key] = [&old.server_cert, &old.server_key];
    let url = format!("https://{}/v2/", registry.host());
    let trusts = |authority: &Authority, other: &Authority, when: &str| {
        let answer = home.run("curl", &["-sS", "--cacert", &authority.file, &url]);
        assert_eq!(answer, "{}", "{when}");
        let refused = home.refused("curl", &["-sS", "--cacert", &other.file, &url]);
        assert!(refused.contains(UNTRUSTED), "{when}: {refused}");
    };
    let mut reloads = 0;
    let mut reload = |want: &str| {
        reloads += 1;
        registry.signal("HUP");
        let mut lines = Vec::new();
        eventually(want, || {
            let log = registry.log();
            let about = log.lines().filter(|line| line.contains("certificate"));
            lines = about.map(str::to_owned).collect();
            lines.len() == reloads
        });
        assert!(lines[reloads - 1].contains(want), "{want}: {lines:?}");
    };
    trusts(&old, &new, "at first");

    let (chain, private) = new.issue();
    fs::write(certificate, &chain).expect("a file");
    reload("the old certificate stays in use: ");
    trusts(&old, &new, "a key that does not go with the certificate");
    fs::write(key, &private).expect("a file");
    reload("the certificate was reloaded");
    trusts(&new, &old, "both are new");
    for (broken, why) in
        [("", "empty"), (&chain[..chain.len() / 2], "cut off"), ("text", "not PEM")]
    {
        fs::write(certificate, broken).expect("a file");
        reload("the old certificate stays in use: ");
        trusts(&new, &old, why);
    }
    fs::remove_file(key).expect("a file");
    fs::write(certificate, &chain).expect("a file");
    reload(key);
    trusts(&new, &old, "the key is gone");
}

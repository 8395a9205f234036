//! The Docker engine, podman and skopeo: with and without a login, where one needs
//! it and where one may pull without.

use std::process::Command;

use crate::common::engine::Engine;
use crate::common::home::Home;
use crate::common::{Registry, run};
use crate::support::{basic, folder, get_as, password, push, start, user};

/// Runs a client that must fail; gives all that it printed.
fn refused(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed).into_owned();
    assert!(!output.status.success(), "{command:?} succeeded:\n{printed}");
    printed
}

/// A client, and how it says what.
struct Client<'a, F> {
    name: &'a str,
    /// Runs a command against the registry.
    command: F,
}

impl<F: Fn(&[&str]) -> Command> Client<'_, F> {
    fn login(&self, host: &str, name: &str, password: &str) -> Command {
        (self.command)(&["login", "--username", name, "--password", password, host])
    }

    /// Logged in as nobody, with a wrong password, and as the writer.
    fn logs_in(&self, registry: &Registry) {
        let host = registry.host();
        let printed = refused(&mut self.login(&host, "writer", "wrong"));
        let printed = printed.to_lowercase();
        let says = ["unauthorized", "401", "invalid username/password", "authentication required"];
        assert!(says.iter().any(|words| printed.contains(words)), "{}: {printed}", self.name);
        run(&mut self.login(&host, "writer", &password("writer")));
    }

    fn logs_out(&self, registry: &Registry) {
        run(&mut (self.command)(&["logout", &registry.host()]));
    }
}

fn tags(registry: &Registry, repository: &str) -> String {
    get_as(registry, Some(&user("owner")), &format!("/v2/{repository}/tags/list")).text()
}

/// Whoever is nobody cannot pull; a reader pulls, a writer pushes where he may.
#[test]
fn docker() {
    let (home, dir) = (Home::new(), folder());
    let engine = Engine::start(&home, &[]);
    for anonymous in ["none", "pull"] {
        let store = tempfile::TempDir::new().expect("a temporary folder");
        for file in ["users", "rules"] {
            std::fs::copy(dir.path().join(file), store.path().join(file)).expect("a copy");
        }
        let registry = start(store.path(), &["--anonymous", anonymous]);
        push(&registry, "public/base", "base");
        push(&registry, "team/app", "app");
        let host = registry.host();
        let [public, team, mine, other] =
            ["public/base:1", "team/app:1", "team/mine:1", "other/mine:1"]
                .map(|name| format!("{host}/{name}"));
        let client =
            Client { name: "docker", command: |arguments: &[&str]| engine.command(arguments) };
        let pull = |name: &str| engine.command(&["pull", name]);
        if anonymous == "pull" {
            run(&mut pull(&public));
        } else {
            refused(&mut pull(&public));
        }
        refused(&mut pull(&team));
        client.logs_in(&registry);
        run(&mut pull(&team));
        engine.docker(&["tag", &team, &mine]);
        engine.docker(&["push", &mine]);
        assert!(tags(&registry, "team/mine").contains(r#"["1"]"#));
        engine.docker(&["tag", &team, &other]);
        refused(&mut engine.command(&["push", &other]));
        refused(&mut engine.command(&["push", &public]));
        client.logs_out(&registry);
        refused(&mut engine.command(&["push", &mine]));
        engine.forget();
        refused(&mut pull(&mine));
    }
}

#[test]
fn podman_and_skopeo() {
    let (home, dir) = (Home::new(), folder());
    for anonymous in ["none", "pull"] {
        let store = tempfile::TempDir::new().expect("a temporary folder");
        for file in ["users", "rules"] {
            std::fs::copy(dir.path().join(file), store.path().join(file)).expect("a copy");
        }
        let registry = start(store.path(), &["--anonymous", anonymous]);
        push(&registry, "public/base", "base");
        push(&registry, "team/app", "app");
        let host = registry.host();
        for name in ["podman", "skopeo"] {
            let authfile = home.path(&format!("{name}-{anonymous}.json"));
            let client = Client {
                name,
                command: |arguments: &[&str]| {
                    let mut all = vec![arguments[0], "--authfile", &authfile];
                    if arguments[0] == "login" {
                        all.push("--tls-verify=false");
                    }
                    all.extend(&arguments[1..]);
                    home.command(name, &all)
                },
            };
            let image = |name: &str| format!("docker://{host}/{name}");
            let copy = |from: &str, to: &str| {
                let plain = ["--src-tls-verify=false", "--dest-tls-verify=false"];
                let all = [&["copy", "--quiet", "--authfile", &authfile], &plain[..], &[from, to]];
                home.command("skopeo", &all.concat())
            };
            // An empty file is one without logins.
            std::fs::write(&authfile, "{}").expect("a file");
            let local = format!("dir:{}", home.path(&format!("{name}-{anonymous}")));
            let mut pull = copy(&image("public/base:1"), &local);
            if anonymous == "pull" {
                run(&mut pull);
            } else {
                refused(&mut pull);
            }
            refused(&mut copy(&image("team/app:1"), &local));
            client.logs_in(&registry);
            run(&mut copy(&image("team/app:1"), &local));
            let mine = format!("team/{name}");
            run(&mut copy(&local, &image(&format!("{mine}:1"))));
            assert!(tags(&registry, &mine).contains(r#"["1"]"#));
            refused(&mut copy(&local, &image("other/mine:1")));
            refused(&mut copy(&local, &image("public/base:2")));
            client.logs_out(&registry);
            refused(&mut copy(&local, &image(&format!("{mine}:2"))));
        }
        // By itself, and not as somebody whom a file knows.
        let pull = ["pull", "--quiet", "--tls-verify=false"];
        if anonymous == "pull" {
            home.podman(&[&pull[..], &[&format!("{host}/public/base:1")]].concat());
        }
        let who = format!("writer:{}", password("writer"));
        let credentials = ["--creds", &who, &format!("{host}/team/app:1")];
        home.podman(&[&pull[..], &credentials].concat());
    }
}

#[test]
fn curl_with_a_password() {
    let (home, dir) = (Home::new(), folder());
    let registry = start(dir.path(), &[]);
    push(&registry, "team/app", "app");
    let url = format!("http://{}/v2/team/app/tags/list", registry.host());
    let with =
        |who: &str| home.run("curl", &["-sf", "--user", &format!("{who}:{}", password(who)), &url]);
    assert!(with("reader").contains("artifact"));
    home.refused("curl", &["-sf", &url]);
    // What curl sends is what is expected here.
    assert_eq!(basic("Aladdin", "open sesame"), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
}

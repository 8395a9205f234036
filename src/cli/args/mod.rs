//! Flags and environment variables. They are checked here, and turned into the options of each part
//! of the program, which does not read the environment itself.

mod access;
mod events;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytesize::ByteSize;
use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args};
use hyper::header::HeaderValue;

use crate::http;
use crate::image::{Id, Images, Platform};
use crate::log;
use crate::registry::maintenance::gc;
use crate::registry::{self, LayerOptions, Limits, OpenError, Retention, StorageOptions};
use crate::remote;
use crate::server;

pub use access::{AccessArgs, Anonymous};
pub use events::{HookArgs, NotifyArgs};

/// Where the server listens by default. The npm package `docker-registry-server` had the same port.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000);

/// Where the registry is stored.
#[derive(Args, Clone, Debug)]
pub struct StoreArgs {
    /// Folder of the registry: blobs are in DIR/layers, the index is in DIR/db. The server creates it if it is missing
    #[arg(long, value_name = "DIR", env = "REGISTRY_DIR", default_value = ".")]
    pub dir: PathBuf,

    /// Folder of the blobs, for example the `rootdirectory` of an existing registry:2. It must exist [default: DIR/layers]
    #[arg(long, value_name = "PATH", env = "REGISTRY_LAYERS")]
    pub layers: Option<PathBuf>,
}

impl StoreArgs {
    /// The root of the blobs.
    pub fn root(&self) -> Result<PathBuf> {
        match &self.layers {
            // A mistyped path must not become an empty registry.
            Some(layers) => {
                ensure!(layers.is_dir(), "--layers {} is not a folder", layers.display());
                Ok(layers.clone())
            }
            None => Ok(self.dir.join("layers")),
        }
    }

    /// Opens the images, for a command that runs beside the server or without one.
    pub fn open(&self, options: &LayerOptions) -> Result<Arc<Images>> {
        self.open_with(registry::open, options)
    }

    /// Does so by [`registry::open`] or a function like it.
    pub fn open_with(
        &self,
        open: impl FnOnce(&Path, &Path, &LayerOptions) -> Result<Arc<Images>, OpenError>,
        options: &LayerOptions,
    ) -> Result<Arc<Images>> {
        let opened = open(&self.dir, &self.root()?, options);
        opened.map_err(|error| match error {
            OpenError::Missing(dir) => anyhow!(
                "there is no registry in {}: --dir names its folder, --layers another root of its \
                 blobs",
                dir.display()
            ),
            other => other.into(),
        })
    }
}

/// Where a command finds images: in a folder, or on a server.
#[derive(Args, Clone, Debug)]
pub struct SourceArgs {
    #[command(flatten)]
    pub store: StoreArgs,

    /// Ask the registry at this URL instead of opening a folder: http://HOST[:PORT] or https://HOST[:PORT]. The login is
    /// what `docker login` or `podman login` has stored
    #[arg(long, value_name = "URL")]
    pub server: Option<remote::Url>,
}

/// How layers are indexed, and how decoded parts of them are cached.
#[derive(Args, Clone, Debug)]
pub struct IndexArgs {
    /// Number of layers to index at the same time; with 0, a layer is indexed when it is first read instead of when it is
    /// pushed [default: number of cores]
    #[arg(long, value_name = "N", env = "REGISTRY_INDEX_JOBS", value_parser = clap::value_parser!(u16).range(0..=1024))]
    pub index_jobs: Option<u16>,

    /// Memory for the cache of decoded parts of layers; at least 32MiB
    #[arg(long, value_name = "BYTES", env = "REGISTRY_CACHE_SIZE", default_value = "256MiB", value_parser = bytes)]
    pub cache_size: u64,

    /// Maximum number of entries of a layer; a layer with more is not indexed
    #[arg(long, value_name = "N", env = "REGISTRY_INDEX_MAX_ENTRIES", default_value_t = 5_000_000,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub index_max_entries: u64,

    /// Maximum unpacked size of a layer
    #[arg(long, value_name = "BYTES", env = "REGISTRY_INDEX_MAX_OUTPUT", default_value = "1TB", value_parser = bytes)]
    pub index_max_output: u64,

    /// Maximum compression ratio of a layer; its first 100 MB do not count
    #[arg(long, value_name = "N", env = "REGISTRY_INDEX_MAX_RATIO", default_value_t = 2000,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub index_max_ratio: u64,

    /// Maximum length of a path in a layer, in bytes
    #[arg(long, value_name = "BYTES", env = "REGISTRY_INDEX_MAX_PATH", default_value_t = 4096,
          value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub index_max_path: u16,
}

/// A smaller cache could not hold two of the largest parts.
const CACHE_MIN: u64 = 32 << 20;

impl IndexArgs {
    pub fn check(&self) -> Result<LayerOptions> {
        ensure!(
            self.cache_size >= CACHE_MIN,
            "--cache-size is {} bytes, want at least 32MiB",
            self.cache_size
        );
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(LayerOptions {
            jobs: self.index_jobs.map_or(cores, usize::from),
            limits: Limits {
                entries: self.index_max_entries,
                output: self.index_max_output,
                ratio: self.index_max_ratio,
                path: usize::from(self.index_max_path),
            },
            cache: self.cache_size,
        })
    }
}

/// `4096`, `256MiB`, `1TB`.
fn bytes(text: &str) -> Result<u64, String> {
    let parsed: Result<ByteSize, _> = text.parse();
    parsed
        .map(|size| size.as_u64())
        .map_err(|_| "want a number with a unit, such as 256MiB, 10GB or 1TB".to_owned())
}

/// `50MB/s`, `50MB`, `0`.
pub fn rate(text: &str) -> Result<u64, String> {
    bytes(text.strip_suffix("/s").unwrap_or(text))
        .map_err(|_| "want bytes per second with a unit, such as 50MB/s, or 0".to_owned())
}

/// The flags of `registry index`.
#[derive(Args, Clone, Debug)]
pub struct IndexCommandArgs {
    #[command(flatten)]
    pub source: SourceArgs,

    #[command(flatten)]
    pub index: IndexArgs,

    /// Index all images of the registry
    #[arg(long)]
    pub all: bool,

    /// Index layers again that have an index already
    #[arg(long)]
    pub force: bool,

    /// Print the layers as a JSON array when all are done
    #[arg(long)]
    pub json: bool,

    /// Images to index: NAME[:TAG][@DIGEST], the digest of a manifest or config, or at least the first 12 digits of one. Of
    /// a multi-platform image, all stored platforms are indexed
    #[arg(value_name = "REFERENCE", conflicts_with = "all", required_unless_present = "all")]
    pub references: Vec<Id>,
}

/// The flags of `registry mount`.
#[derive(Args, Clone, Debug)]
pub struct MountArgs {
    #[command(flatten)]
    pub store: StoreArgs,

    /// The platform to show of multi-platform images [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<Platform>,

    /// Mount only this image, with its root at the mountpoint: NAME[:TAG][@DIGEST], the digest of its manifest or config, or
    /// at least the first 12 digits of one
    #[arg(long, value_name = "REFERENCE")]
    pub image: Option<Id>,

    /// Return as soon as the mount is ready; a background process serves it
    #[arg(long)]
    pub background: bool,

    /// Let other users read the mount too, as far as file modes permit
    #[arg(long)]
    pub allow_other: bool,

    /// Number of threads that answer the kernel; as many again decode layers [default: number of cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: Option<u16>,

    /// How long it may take until a pushed, moved or deleted tag shows in the mount
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub tag_ttl: Duration,

    /// Show this user as the owner of everything
    #[arg(long, value_name = "N")]
    pub uid: Option<u32>,

    /// Show this group as the group of everything
    #[arg(long, value_name = "N")]
    pub gid: Option<u32>,

    /// Use 32-bit inode numbers, for 32-bit programs without large-file support
    #[arg(long)]
    pub inode32: bool,

    /// Format of the log on stderr
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    pub log: log::Format,

    /// Lowest level that is logged
    #[arg(long, value_name = "LEVEL", value_enum, default_value = "info")]
    pub log_level: log::Level,

    /// With --background: append the log to this file [default: DIR/mount.log]
    #[arg(long, value_name = "FILE", requires = "background")]
    pub log_file: Option<PathBuf>,

    /// An existing folder to mount at
    #[arg(value_name = "MOUNTPOINT")]
    pub mountpoint: PathBuf,

    #[command(flatten, next_help_heading = "How layers are indexed and read")]
    pub index: IndexArgs,
}

/// The flags of `registry umount`.
#[derive(Args, Clone, Debug)]
pub struct UmountArgs {
    /// Unmount even if busy; programs that have it open can finish
    #[arg(short = 'z', long)]
    pub lazy: bool,

    /// The folder where the registry is mounted
    #[arg(value_name = "MOUNTPOINT")]
    pub mountpoint: PathBuf,
}

/// The flags of `registry serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    pub store: StoreArgs,

    #[command(flatten)]
    pub index: IndexArgs,

    /// Address to listen on; may be repeated. Port 0 chooses a free port, which the ready line shows
    /// [default: 127.0.0.1:8000]
    #[arg(long, value_name = "ADDR:PORT", env = "REGISTRY_LISTEN", value_delimiter = ',')]
    pub listen: Vec<SocketAddr>,

    /// Listen on 127.0.0.1:N; may be repeated. The variable PORT is used if neither --port nor --listen is given
    #[arg(short, long, value_name = "N", env = "REGISTRY_PORT", value_delimiter = ',', value_parser = port)]
    pub port: Vec<Port>,

    /// Serve TLS with this certificate chain (PEM); reloaded on SIGHUP
    #[arg(long, value_name = "FILE", env = "REGISTRY_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of the certificate (PEM); reloaded on SIGHUP
    #[arg(long, value_name = "FILE", env = "REGISTRY_TLS_KEY")]
    pub tls_key: Option<PathBuf>,

    /// Refuse every push and delete, and do not write to the folder of the blobs
    #[arg(long, env = "REGISTRY_READ_ONLY", action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub read_only: bool,

    /// Accept image manifests even if layers are missing from the repository; the config must be there
    #[arg(long, env = "REGISTRY_SPARSE_IMAGES", action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub sparse_images: bool,

    /// Also mount all images at this folder
    #[arg(long, value_name = "MOUNTPOINT", env = "REGISTRY_MOUNT")]
    pub mount: Option<PathBuf>,

    /// Let other users read the mount too, as far as file modes permit
    #[arg(long, env = "REGISTRY_MOUNT_ALLOW_OTHER", requires = "mount", action = ArgAction::SetTrue,
          value_parser = BoolishValueParser::new())]
    pub mount_allow_other: bool,

    /// Format of the log on stderr and of the ready line on stdout
    #[arg(long, value_name = "FORMAT", env = "REGISTRY_LOG", value_enum, default_value = "text")]
    pub log: log::Format,

    /// Lowest level that is logged; requests are logged at info
    #[arg(
        long,
        value_name = "LEVEL",
        env = "REGISTRY_LOG_LEVEL",
        value_enum,
        default_value = "info"
    )]
    pub log_level: log::Level,

    /// Serve Prometheus metrics at http://ADDR:PORT/metrics
    #[arg(long, value_name = "ADDR:PORT", env = "REGISTRY_METRICS_LISTEN")]
    pub metrics_listen: Option<SocketAddr>,

    /// Remove an unfinished upload that has received no data for this long
    #[arg(long, value_name = "TIME", env = "REGISTRY_UPLOAD_TTL", default_value = "168h", value_parser = duration)]
    pub upload_ttl: Duration,

    /// Time between two collections of garbage: of what no tag, manifest or repository names any more. 0 switches them off
    #[arg(long, value_name = "TIME", env = "REGISTRY_GC_INTERVAL", default_value = "1h", value_parser = duration_or_zero)]
    pub gc_interval: Duration,

    /// Collect only what nothing has named, and no client was told of, for this long
    #[arg(long, value_name = "TIME", env = "REGISTRY_GC_GRACE", default_value = "24h", value_parser = duration_or_zero)]
    pub gc_grace: Duration,

    /// Collect manifests too that no tag, image index or referrer's subject leads to
    #[arg(long, env = "REGISTRY_GC_UNTAGGED", action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub gc_untagged: bool,

    /// File with rules that say which tags stay and which are immutable; the others are deleted before each collection of
    /// garbage. It is read again when it changes
    #[arg(long, value_name = "FILE", env = "REGISTRY_RETENTION")]
    pub retention: Option<PathBuf>,

    /// Check everything that is stored this often, as `registry scrub` does. 0 switches it off
    #[arg(long, value_name = "TIME", env = "REGISTRY_SCRUB_INTERVAL", default_value = "0", value_parser = duration_or_zero)]
    pub scrub_interval: Duration,

    /// Read at most this many bytes per second for these checks; 0 reads as fast as possible
    #[arg(long, value_name = "BYTES/s", env = "REGISTRY_SCRUB_RATE", default_value = "50MB/s", value_parser = rate)]
    pub scrub_rate: u64,

    /// Send an empty line to readers of /v1/events when nothing has happened for this long
    #[arg(long, value_name = "TIME", env = "REGISTRY_EVENT_HEARTBEAT", default_value = "30s", value_parser = duration)]
    pub event_heartbeat: Duration,

    /// How long requests may take to finish after SIGTERM; a second signal stops at once
    #[arg(long, value_name = "TIME", env = "REGISTRY_DRAIN_TIMEOUT", default_value = "30s", value_parser = duration)]
    pub drain_timeout: Duration,

    /// Close a connection that takes longer than this to send a request's head, or its next request
    #[arg(long, value_name = "TIME", env = "REGISTRY_HEADER_TIMEOUT", default_value = "30s", value_parser = duration)]
    pub header_timeout: Duration,

    /// Close a connection on which no byte moves for this long, unless the server itself is at work
    #[arg(long, value_name = "TIME", env = "REGISTRY_IDLE_TIMEOUT", default_value = "120s", value_parser = duration)]
    pub idle_timeout: Duration,

    /// Maximum number of connections; more connections wait
    #[arg(long, value_name = "N", env = "REGISTRY_MAX_CONNECTIONS", default_value_t = 8192,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,

    /// Accept this many connections from one address at a time, and close more [default: half of all]
    #[arg(long, value_name = "N", env = "REGISTRY_MAX_CONNECTIONS_PER_ADDRESS",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections_per_address: Option<u32>,

    /// Without users, the server answers only to IP addresses, localhost and this name; may be repeated
    #[arg(long, value_name = "NAME", env = "REGISTRY_HOST", value_delimiter = ',', value_parser = host)]
    pub host: Vec<String>,

    /// Let pages of this site use the registry from a browser, such as https://ui.example.com; may be repeated
    #[arg(long, value_name = "ORIGIN", env = "REGISTRY_CORS_ORIGIN", value_delimiter = ',', value_parser = origin)]
    pub cors_origin: Vec<HeaderValue>,

    /// Network or address of a proxy in front of this server, whose X-Forwarded-For or Forwarded header gives the client's
    /// address; may be repeated
    #[arg(long, value_name = "CIDR", env = "REGISTRY_TRUSTED_PROXY", value_delimiter = ',')]
    pub trusted_proxy: Vec<http::Network>,

    #[command(flatten, next_help_heading = "Access")]
    pub access: AccessArgs,

    #[command(flatten, next_help_heading = "Hooks")]
    pub hooks: HookArgs,

    #[command(flatten, next_help_heading = "Webhooks")]
    pub notify: NotifyArgs,
}

/// A port, or `None` for a value that is not meant as a setting: Kubernetes and Docker set
/// `REGISTRY_PORT=tcp://…` in containers that can reach a service called `registry`.
#[derive(Clone, Copy, Debug)]
pub struct Port(Option<u16>);

fn port(text: &str) -> Result<Port, String> {
    if text.starts_with("tcp://") || text.starts_with("udp://") {
        return Ok(Port(None));
    }
    let port = text.parse().map_err(|_| "want a number from 0 to 65535".to_owned())?;
    Ok(Port(Some(port)))
}

/// A host name, in lower case.
fn host(text: &str) -> Result<String, String> {
    let visible = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if text.is_empty() || !text.chars().all(visible) {
        return Err("want a host name without a port, such as registry.example.com".to_owned());
    }
    Ok(text.trim_end_matches('.').to_ascii_lowercase())
}

/// An origin as browsers send it: scheme, host and a port that is not the scheme's own.
fn origin(text: &str) -> Result<HeaderValue, String> {
    let wanted = || "want http://HOST[:PORT] or https://HOST[:PORT]".to_owned();
    let text = text.strip_suffix('/').unwrap_or(text).to_ascii_lowercase();
    let (scheme, authority) = text.split_once("://").ok_or_else(wanted)?;
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    let port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return Err(wanted()),
    };
    if authority.is_empty() || !authority.chars().all(plain) {
        return Err(wanted());
    }
    let authority = authority.strip_suffix(port).unwrap_or(authority);
    HeaderValue::try_from(format!("{scheme}://{authority}")).map_err(|_| wanted())
}

/// `30s`, `1h 30m`, `168h`.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed: Result<jiff::SignedDuration, _> = text.parse();
    match parsed.map(Duration::try_from) {
        Ok(Ok(duration)) if !duration.is_zero() => Ok(duration),
        _ => Err("want a time above zero with its unit, such as 30s, 15m or 168h".to_owned()),
    }
}

/// The same, or `0`.
pub fn duration_or_zero(text: &str) -> Result<Duration, String> {
    if matches!(text, "0" | "0s") { Ok(Duration::ZERO) } else { duration(text) }
}

/// The settings of `registry serve`, checked.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    pub server: server::Config,
    pub log: log::Format,
    pub log_level: log::Level,
}

impl ServeArgs {
    /// Checks the flags against each other and against the process's `environment`. `known` are the
    /// variables of all flags.
    pub fn check(
        self,
        environment: impl Iterator<Item = (OsString, OsString)>,
        known: &[OsString],
    ) -> Result<ServeConfig> {
        let environment = check_environment(environment, known)?;
        let loopback = |port| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let mut listen = self.listen;
        listen.extend(self.port.into_iter().filter_map(|port| port.0).map(loopback));
        if listen.is_empty() {
            listen.push(environment.port.map_or(DEFAULT_LISTEN, loopback));
        }
        for (i, address) in listen.iter().enumerate().filter(|(_, address)| address.port() != 0) {
            ensure!(!listen[..i].contains(address), "--listen and --port name {address} twice");
            ensure!(
                self.metrics_listen != Some(*address),
                "--metrics-listen and --listen both name {address}"
            );
        }
        let tls = match (self.tls_cert, self.tls_key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) => bail!("--tls-cert needs --tls-key"),
            (None, Some(_)) => bail!("--tls-key needs --tls-cert"),
        };
        let access = self.access.check(environment.users.as_deref(), &listen)?;
        // The mount of a killed server cannot be looked at; the new mount replaces it.
        if let Some(path) = &self.mount
            && let Err(error) = path.metadata()
            && error.kind() == std::io::ErrorKind::NotFound
        {
            bail!("--mount {} does not exist", path.display());
        }
        if let Some(path) = &self.retention {
            Retention::read(path).context("--retention cannot be used")?;
        }
        let root = self.store.root()?;
        let hooks = self.hooks.check(&self.store)?;
        let first = listen.first().copied().unwrap_or(DEFAULT_LISTEN);
        let notify = self.notify;
        let notifications =
            notify.check(&self.store.dir, tls.is_some(), first, environment.roots)?;
        let server = server::Config {
            access,
            dir: self.store.dir,
            layers: self.index.check()?,
            storage: StorageOptions {
                root,
                read_only: self.read_only,
                sparse_images: self.sparse_images,
            },
            http: http::Options {
                listen,
                tls,
                metrics_listen: self.metrics_listen,
                drain_timeout: self.drain_timeout,
                header_timeout: self.header_timeout,
                idle_timeout: self.idle_timeout,
                max_connections: self.max_connections,
                max_connections_per_address: self.max_connections_per_address,
                sites: http::Sites { hosts: self.host, origins: self.cors_origin },
                trusted_proxies: self.trusted_proxy,
            },
            events: crate::events::Options {
                heartbeat: self.event_heartbeat,
                hooks,
                notifications,
            },
            upload_ttl: self.upload_ttl,
            gc: gc::Options {
                grace: self.gc_grace,
                untagged: self.gc_untagged,
                ..gc::Options::default()
            },
            retention: self.retention,
            gc_interval: Some(self.gc_interval).filter(|interval| !interval.is_zero()),
            scrub_interval: Some(self.scrub_interval).filter(|interval| !interval.is_zero()),
            scrub_rate: self.scrub_rate,
            mount: self.mount.map(|path| (path, self.mount_allow_other)),
        };
        Ok(ServeConfig { server, log: self.log, log_level: self.log_level })
    }
}

/// The environment variables that do not belong to a single flag.
#[derive(Default)]
struct Environment {
    /// `PORT`
    port: Option<u16>,
    /// `REGISTRY_USERS`: a list, where `--user` names one user.
    users: Option<String>,
    /// `SSL_CERT_FILE`, which OpenSSL reads too.
    roots: Option<PathBuf>,
}

/// Where podman finds logins, and so do the commands that ask a server.
const AUTH_FILE: &str = "REGISTRY_AUTH_FILE";

/// Refuses unknown `REGISTRY_…` variables, because a mistyped setting would be ignored silently.
fn check_environment(
    environment: impl Iterator<Item = (OsString, OsString)>,
    known: &[OsString],
) -> Result<Environment> {
    let mut found = Environment::default();
    for (name, value) in environment {
        let (Some(text), value) = (name.to_str(), value.to_string_lossy()) else {
            continue;
        };
        if text == "PORT" {
            found.port = Some(
                value.parse().with_context(|| format!("PORT is {value:?}, want a port number"))?,
            );
        } else if text == "REGISTRY_USERS" {
            found.users = Some(value.into_owned());
        } else if text == "SSL_CERT_FILE" {
            found.roots = Some(PathBuf::from(value.as_ref()));
        } else if text.starts_with("REGISTRY_")
            && text != AUTH_FILE
            && !known.contains(&name)
            && !is_service_link(text)
        {
            bail!("{text} is not a known setting: `registry serve --help` lists all of them");
        }
    }
    Ok(found)
}

/// Kubernetes and Docker announce a service called `registry` to containers in variables such as
/// `REGISTRY_SERVICE_HOST` and `REGISTRY_PORT_5000_TCP`.
fn is_service_link(name: &str) -> bool {
    const PREFIXES: [&str; 4] =
        ["REGISTRY_SERVICE_HOST", "REGISTRY_SERVICE_PORT", "REGISTRY_PORT_", "REGISTRY_ENV_"];
    name == "REGISTRY_NAME" || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn check(arguments: &str, environment: &[(&str, &str)]) -> Result<ServeConfig> {
        let arguments = ["registry", "serve"].into_iter().chain(arguments.split_whitespace());
        let crate::cli::Command::Serve(args) = crate::cli::Cli::try_parse_from(arguments)?.command
        else {
            unreachable!("the arguments start with serve");
        };
        let environment = environment.iter().map(|(k, v)| (k.into(), v.into()));
        args.check(environment, &crate::cli::variables())
    }

    #[test]
    fn addresses() {
        for (arguments, environment, want) in [
            ("", &[][..], "127.0.0.1:8000"),
            ("", &[("PORT", "81")], "127.0.0.1:81"),
            ("-p 82 -p 0 -p 0", &[("PORT", "81")], "127.0.0.1:82 127.0.0.1:0 127.0.0.1:0"),
            (
                "--listen [::1]:5 --listen 0.0.0.0:6,1.2.3.4:7 --port 8 --insecure-open",
                &[],
                "[::1]:5 0.0.0.0:6 1.2.3.4:7 127.0.0.1:8",
            ),
        ] {
            let listen = check(arguments, environment).unwrap().server.http.listen;
            assert_eq!(listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "), want);
        }
    }

    #[test]
    fn refused() {
        for (arguments, environment, names) in [
            ("--tls-cert x", &[][..], "--tls-key"),
            ("--tls-key x", &[], "--tls-cert"),
            ("--listen 127.0.0.1:5 -p 5", &[], "127.0.0.1:5"),
            ("--listen 127.0.0.1:5 --metrics-listen 127.0.0.1:5", &[], "--metrics-listen"),
            ("--listen localhost", &[], "--listen"),
            ("--port 65536", &[], "--port"),
            ("--log xml", &[], "--log"),
            ("--upload-ttl 168", &[], "--upload-ttl"),
            ("--upload-ttl 0s", &[], "--upload-ttl"),
            ("--max-connections 0", &[], "--max-connections"),
            ("--host registry:5000", &[], "without a port"),
            ("--cors-origin *", &[], "https://HOST"),
            ("--cors-origin ui.example", &[], "https://HOST"),
            ("--cors-origin https://ui.example/page", &[], "https://HOST"),
            ("--layers /does/not/exist", &[], "/does/not/exist"),
            ("--nonsense", &[], "--nonsense"),
            ("--listen 0.0.0.0:5", &[], "--insecure-open"),
            ("--listen [::ffff:1.2.3.4]:5", &[], "--insecure-open"),
            ("--acl x", &[], "--acl needs users"),
            ("--anonymous pull", &[], "--anonymous needs users"),
            ("--secret x", &[], "--secret needs users"),
            ("--anonymous push", &[], "--anonymous"),
            ("--user ann", &[], "NAME:PASSWORD"),
            ("--user :x", &[], "1 to 255 bytes"),
            ("--user ann:", &[], "the password is empty"),
            ("", &[("REGISTRY_USERS", "ann:x,bob")], "REGISTRY_USERS"),
            ("", &[("PORT", "http")], "PORT"),
            ("", &[("REGISTRY_STORAGE_DELETE_ENABLED", "true")], "REGISTRY_STORAGE_DELETE_ENABLED"),
        ] {
            let error = format!("{:#}", check(arguments, environment).expect_err(arguments));
            assert!(error.contains(names), "{arguments}: {error}");
        }
        assert!(
            check(
                "",
                &[("REGISTRY_SERVICE_HOST", "10.0.0.1"), ("REGISTRY_DIR", "x"), ("OTHER", "y")]
            )
            .is_ok()
        );
    }

    #[test]
    fn users() {
        let both = [("REGISTRY_USERS", "carl:c,dora:d:d")];
        for (arguments, environment, want) in [
            ("--listen 0.0.0.0:5 --user ann:a,b -u bob:b:", &both[..], "ann=a,b bob=b:"),
            ("--listen 0.0.0.0:5", &both, "carl=c dora=d:d"),
            ("--insecure-open --listen 0.0.0.0:5", &[], ""),
            ("--listen [::ffff:127.0.0.1]:5", &[], ""),
        ] {
            let users = check(arguments, environment).unwrap().server.access.users;
            let users = users.iter().map(|user| format!("{}={}", user.name, user.password));
            assert_eq!(users.collect::<Vec<_>>().join(" "), want);
        }
        let shown = format!("{:?}", check("--user ann:hunter2", &[]));
        assert!(shown.contains("ann") && !shown.contains("hunter2"), "{shown}");
        let error = check("--user hunter2", &[]).unwrap_err().to_string();
        assert!(error.contains("NAME:PASSWORD"), "{error}");
    }

    #[test]
    fn times() {
        for (text, seconds) in [("30s", 30), ("168h", 604_800), ("1h 30m", 5400)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)));
        }
    }
}

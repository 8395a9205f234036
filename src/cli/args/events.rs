//! The flags of hooks and webhooks.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};

use super::{StoreArgs, duration};
use crate::events::Kind;
use crate::events::{hooks, webhooks};

/// The scripts that run when an event happens.
#[derive(Args, Clone, Debug)]
pub struct HookArgs {
    /// Run this script (/bin/bash -c SCRIPT) after a tag is set; $1 is the image's id, $2 is NAME:TAG
    #[arg(long, value_name = "SCRIPT", env = "REGISTRY_ON_TAG")]
    pub on_tag: Option<OsString>,

    /// Run this script after a tag is removed; $1 is the image's id, $2 is NAME:TAG
    #[arg(long, value_name = "SCRIPT", env = "REGISTRY_ON_UNTAG")]
    pub on_untag: Option<OsString>,

    /// Run this script after an image is pushed; $1 is its id
    #[arg(long, value_name = "SCRIPT", env = "REGISTRY_ON_IMAGE")]
    pub on_image: Option<OsString>,

    /// Run this script after a layer is pushed or mounted that was not in its repository; $1 is its id
    #[arg(long, value_name = "SCRIPT", env = "REGISTRY_ON_LAYER")]
    pub on_layer: Option<OsString>,

    /// Run this script after a pushed image is verified against its digests; $1 is the image's id
    #[arg(long, value_name = "SCRIPT", env = "REGISTRY_ON_VERIFY")]
    pub on_verify: Option<OsString>,

    /// Run this script after a layer is indexed; $1 is its id
    #[arg(long, value_name = "SCRIPT", env = "REGISTRY_ON_INDEX")]
    pub on_index: Option<OsString>,

    /// Run this script after a manifest or blob is deleted; $1 is its id
    #[arg(long, value_name = "SCRIPT", env = "REGISTRY_ON_DELETE")]
    pub on_delete: Option<OsString>,

    /// Folder of executable files named like the events; they run for events without a script of their own
    /// [default: DIR/hooks, if it exists]
    #[arg(long, value_name = "DIR", env = "REGISTRY_HOOKS")]
    pub hooks: Option<PathBuf>,

    /// Number of hooks that run at the same time; hooks of one repository run one after the other
    #[arg(long, value_name = "N", env = "REGISTRY_HOOK_JOBS", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub hook_jobs: u16,

    /// Kill a hook, with all processes that it started, when it takes longer than this
    #[arg(long, value_name = "TIME", env = "REGISTRY_HOOK_TIMEOUT", default_value = "5m", value_parser = duration)]
    pub hook_timeout: Duration,
}

impl HookArgs {
    pub fn check(self, store: &StoreArgs) -> Result<hooks::Options> {
        let scripts = [
            (Kind::Tag, self.on_tag),
            (Kind::Untag, self.on_untag),
            (Kind::Image, self.on_image),
            (Kind::Layer, self.on_layer),
            (Kind::Verify, self.on_verify),
            (Kind::Index, self.on_index),
            (Kind::Delete, self.on_delete),
        ];
        let folder = match self.hooks {
            Some(folder) => {
                ensure!(folder.is_dir(), "--hooks {} is not a folder", folder.display());
                Some(folder)
            }
            // Not in the working directory, because another user may control that.
            None => Some(store.dir.join("hooks")).filter(|folder| folder.is_dir()),
        };
        let scripts = scripts.into_iter();
        // A hook may change its working directory.
        let absolute =
            |path| std::path::absolute(path).context("cannot find the working directory");
        let mut environment = vec![("REGISTRY_DIR", absolute(&store.dir)?)];
        if let Some(layers) = &store.layers {
            environment.push(("REGISTRY_LAYERS", absolute(layers)?));
        }
        Ok(hooks::Options {
            scripts: scripts.filter_map(|(kind, script)| Some((kind, script?))).collect(),
            folder,
            jobs: usize::from(self.hook_jobs),
            timeout: self.hook_timeout,
            environment,
            umask: 0o077,
        })
    }
}

/// The endpoints that events are posted to.
#[derive(Args, Clone, Debug)]
pub struct NotifyArgs {
    /// Post pushes and deletes to this http:// or https:// URL, in distribution's envelope; may be repeated (in the variable,
    /// separated by spaces)
    #[arg(
        long,
        value_name = "URL",
        env = "REGISTRY_NOTIFY",
        hide_env_values = true,
        value_delimiter = ' '
    )]
    pub notify: Vec<String>,

    /// A header for these posts: 'NAME: VALUE', or @FILE, one per line, which keeps secrets out of the process list; may be
    /// repeated (in the variable, one per line)
    #[arg(
        long,
        value_name = "HEADER",
        env = "REGISTRY_NOTIFY_HEADER",
        hide_env_values = true,
        value_delimiter = '\n'
    )]
    pub notify_header: Vec<String>,

    /// URL at which clients reach this server; addresses in notifications start with it
    /// [default: the first address that it listens on]
    #[arg(long, value_name = "URL", env = "REGISTRY_PUBLIC_URL")]
    pub public_url: Option<String>,
}

impl NotifyArgs {
    pub fn check(
        self,
        dir: &Path,
        tls: bool,
        listen: SocketAddr,
        roots: Option<PathBuf>,
    ) -> Result<webhooks::Options> {
        let public = match &self.public_url {
            Some(url) => public_url(url)?,
            None => (if tls { "https" } else { "http" }.to_owned(), own_address(listen)),
        };
        let given = |texts: Vec<String>| texts.into_iter().filter(|text| !text.trim().is_empty());
        let mut endpoints = Vec::new();
        for url in given(self.notify) {
            let parsed: Option<Uri> = url.parse().ok();
            let authority = parsed.as_ref().and_then(|parsed| {
                let web = matches!(parsed.scheme_str(), Some("http" | "https"));
                parsed.authority().filter(|_| web)
            });
            // The URL may hold a secret, so the message does not show it.
            let authority =
                authority.context("--notify wants URLs that start with http:// or https://")?;
            ensure!(
                !authority.as_str().contains('@'),
                "--notify does not take a password in the URL: use --notify-header 'Authorization: …'"
            );
            ensure!(!endpoints.contains(&url), "--notify names a URL on {authority} twice");
            endpoints.push(url);
        }
        let mut headers = Vec::new();
        for text in given(self.notify_header) {
            let Some(path) = text.strip_prefix('@') else {
                headers.push(notify_header(&text)?);
                continue;
            };
            let lines = fs::read_to_string(path)
                .with_context(|| format!("--notify-header: cannot read {path}"))?;
            for line in lines.lines().filter(|line| !line.trim().is_empty()) {
                headers.push(notify_header(line)?);
            }
        }
        ensure!(headers.is_empty() || !endpoints.is_empty(), "--notify-header needs --notify");
        Ok(webhooks::Options {
            endpoints,
            headers,
            folder: dir.join("notifications"),
            roots,
            public,
        })
    }
}

/// The scheme and authority of a URL that has neither path nor query.
fn public_url(url: &str) -> Result<(String, String)> {
    let parsed: Uri = url.parse().with_context(|| format!("--public-url {url:?} is not a URL"))?;
    match (parsed.scheme_str(), parsed.authority(), parsed.path()) {
        (Some(scheme @ ("http" | "https")), Some(authority), "" | "/")
            if !authority.as_str().contains('@') =>
        {
            Ok((scheme.to_owned(), authority.to_string()))
        }
        _ => bail!("--public-url is {url:?}, want http://HOST[:PORT] or https://HOST[:PORT]"),
    }
}

/// The address the server listens on, as other machines can name it.
fn own_address(listen: SocketAddr) -> String {
    if !listen.ip().is_unspecified() {
        return listen.to_string();
    }
    // An address without a host name still shows the port.
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", host.trim(), listen.port())
}

fn notify_header(text: &str) -> Result<(HeaderName, HeaderValue)> {
    // The header may hold a secret, so the message does not show it.
    let wanted = "--notify-header wants NAME: VALUE";
    let (name, value) = text.split_once(':').context(wanted)?;
    let mut value = HeaderValue::from_str(value.trim()).ok().context(wanted)?;
    value.set_sensitive(true);
    Ok((name.trim().parse().ok().context(wanted)?, value))
}

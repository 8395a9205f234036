//! The flags of those who hear of what happens: hooks and webhooks.

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

/// The scripts that run when something happens.
#[derive(Args, Clone, Debug)]
pub struct HookArgs {
    /// Run this (/bin/bash -c SCRIPT) when a tag was set; $1 is the image's id, $2 NAME:TAG
    #[arg(long, value_name = "SCRIPT", env = "REGISTRY_ON_TAG")]
    pub on_tag: Option<OsString>,

    /// Run this when a tag was taken away; $1 is the image's id, $2 NAME:TAG
    #[arg(long, value_name = "SCRIPT", env = "REGISTRY_ON_UNTAG")]
    pub on_untag: Option<OsString>,

    /// Run this when an image is there; $1 is its id
    #[arg(long, value_name = "SCRIPT", env = "REGISTRY_ON_IMAGE")]
    pub on_image: Option<OsString>,

    /// Run this when a layer is there that its repository did not hold; $1 is its id
    #[arg(long, value_name = "SCRIPT", env = "REGISTRY_ON_LAYER")]
    pub on_layer: Option<OsString>,

    /// Run this when what was pushed has been checked against its digests; $1 is the image's id
    #[arg(long, value_name = "SCRIPT", env = "REGISTRY_ON_VERIFY")]
    pub on_verify: Option<OsString>,

    /// Run this when a layer was indexed; $1 is its id
    #[arg(long, value_name = "SCRIPT", env = "REGISTRY_ON_INDEX")]
    pub on_index: Option<OsString>,

    /// Run this when a manifest or blob was deleted; $1 is its id
    #[arg(long, value_name = "SCRIPT", env = "REGISTRY_ON_DELETE")]
    pub on_delete: Option<OsString>,

    /// For events without a script, run the executable file named like the event in this folder [default: DIR/hooks, if there is one]
    #[arg(long, value_name = "DIR", env = "REGISTRY_HOOKS")]
    pub hooks: Option<PathBuf>,

    /// Hooks at a time; those of one repository run one after the other
    #[arg(long, value_name = "N", env = "REGISTRY_HOOK_JOBS", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub hook_jobs: u16,

    /// End a hook, and all that it has started, that takes longer
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
            // Not of the working directory, which may be anybody's.
            None => Some(store.dir.join("hooks")).filter(|folder| folder.is_dir()),
        };
        let scripts = scripts.into_iter();
        // Hooks may change to another folder.
        let absolute = |path| std::path::absolute(path).context("the folder we are in is gone");
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
        })
    }
}

/// Where else it is told what happens.
#[derive(Args, Clone, Debug)]
pub struct NotifyArgs {
    /// Post pushes and deletes to this http:// or https:// URL, in distribution's envelope; may be repeated (in the variable: by
    /// blanks)
    #[arg(
        long,
        value_name = "URL",
        env = "REGISTRY_NOTIFY",
        hide_env_values = true,
        value_delimiter = ' '
    )]
    pub notify: Vec<String>,

    /// A header for these, 'NAME: VALUE', or @FILE with one a line, where nobody sees it who lists processes; may be repeated (in
    /// the variable: a line each)
    #[arg(
        long,
        value_name = "HEADER",
        env = "REGISTRY_NOTIFY_HEADER",
        hide_env_values = true,
        value_delimiter = '\n'
    )]
    pub notify_header: Vec<String>,

    /// How clients reach this server, for the addresses in notifications [default: the first address that it listens on]
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
            // Not shown: it may be a secret.
            let authority =
                authority.context("--notify wants URLs that start with http:// or https://")?;
            ensure!(
                !authority.as_str().contains('@'),
                "--notify takes no password in a URL: use --notify-header 'Authorization: …'"
            );
            ensure!(!endpoints.contains(&url), "--notify names an URL on {authority} twice");
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

/// Scheme and authority of an URL that has nothing else.
fn public_url(url: &str) -> Result<(String, String)> {
    let parsed: Uri = url.parse().with_context(|| format!("--public-url {url:?} is no URL"))?;
    match (parsed.scheme_str(), parsed.authority(), parsed.path()) {
        (Some(scheme @ ("http" | "https")), Some(authority), "" | "/")
            if !authority.as_str().contains('@') =>
        {
            Ok((scheme.to_owned(), authority.to_string()))
        }
        _ => bail!("--public-url is {url:?}, want http://HOST[:PORT] or https://HOST[:PORT]"),
    }
}

/// Where the server listens, as other machines can name it.
fn own_address(listen: SocketAddr) -> String {
    if !listen.ip().is_unspecified() {
        return listen.to_string();
    }
    // Without a name, the port still helps.
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", host.trim(), listen.port())
}

fn notify_header(text: &str) -> Result<(HeaderName, HeaderValue)> {
    // Not shown: it may be a secret.
    let wanted = "--notify-header wants NAME: VALUE";
    let (name, value) = text.split_once(':').context(wanted)?;
    let mut value = HeaderValue::from_str(value.trim()).ok().context(wanted)?;
    value.set_sensitive(true);
    Ok((name.trim().parse().ok().context(wanted)?, value))
}

//! The one place that decides what a request may do: each route says what it
//! needs, and what one may not see is answered as if it did not exist.

use std::sync::Arc;

use hyper::Method;
use hyper::header::{AUTHORIZATION, HeaderValue};

use super::error::{Error, Result};
use super::router::{Route, Scope};
use super::v1::V1;
use super::{App, Exchange};
use crate::auth::{Identity, Right};
use crate::image::Id;
use crate::oci::{Reference, Repository};
use crate::{image, storage};

/// What a request needs to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need<'a> {
    /// Nothing: who asks is not even looked at.
    Nothing,
    /// Credentials, if the server knows users at all.
    Login,
    /// To be somebody who may see something; the handler leaves out the rest.
    Filtered,
    One(&'a Repository, Right),
    /// To be somebody who may push something.
    Pusher,
}

/// What `method` on `route` needs.
pub fn need<'a>(route: &'a Route, method: &Method) -> Need<'a> {
    let read = matches!(*method, Method::GET | Method::HEAD);
    match route {
        Route::Healthz | Route::Readyz => Need::Nothing,
        Route::Ping => Need::Login,
        Route::Catalog => Need::Filtered,
        Route::Tags(repository) | Route::Referrers(repository, _) => {
            Need::One(repository, Right::Pull)
        }
        Route::Blob(repository, _) | Route::Manifest(repository, _) if read => {
            Need::One(repository, Right::Pull)
        }
        Route::Blob(repository, _) | Route::Manifest(repository, _)
            if *method == Method::DELETE =>
        {
            Need::One(repository, Right::Delete)
        }
        Route::Blob(repository, _) | Route::Manifest(repository, _) => {
            Need::One(repository, Right::Push)
        }
        Route::Uploads(repository) | Route::Upload(repository, _) => {
            Need::One(repository, Right::Push)
        }
        Route::Files(files) => match &files.image {
            Scope::Repository(repository, _) | Scope::Any(Id::Reference { repository, .. }) => {
                Need::One(repository, Right::Pull)
            }
            // Of any of the repositories that one may read.
            Scope::Any(Id::Hex { .. }) => Need::Filtered,
        },
        Route::V1(route) => need_v1(route, method),
    }
}

fn need_v1<'a>(route: &'a V1, method: &Method) -> Need<'a> {
    let right = match *method {
        Method::GET | Method::HEAD => Right::Pull,
        Method::DELETE => Right::Delete,
        _ => Right::Push,
    };
    match route {
        V1::Info | V1::Ping => Need::Nothing,
        V1::Users | V1::User => Need::Login,
        V1::Search | V1::Repositories => Need::Filtered,
        // In any of the repositories that one may read; the handler sees to that.
        V1::Image(..) if right == Right::Pull => Need::Filtered,
        V1::Image(..) => Need::Pusher,
        V1::Repository(repository)
        | V1::Images(repository)
        | V1::Auth(repository)
        | V1::RepositoryJson(repository)
        | V1::Properties(repository)
        | V1::Tags(repository)
        | V1::Tag(repository, _)
        | V1::TagJson(repository, _) => Need::One(repository, right),
    }
}

/// Refuses what the exchange's identity may not do.
pub fn check(app: &Arc<App>, route: &Route, exchange: &Exchange) -> Result<()> {
    let checked = decide(app, route, exchange);
    if let Err(error) = &checked {
        let (client, user) = (exchange.client, exchange.identity.name());
        tracing::debug!(%client, user, %error, "access refused");
    }
    checked
}

fn decide(app: &App, route: &Route, exchange: &Exchange) -> Result<()> {
    let (access, identity) = (&app.access, &exchange.identity);
    match need(route, &exchange.method) {
        Need::Nothing => Ok(()),
        Need::Login if access.is_open() || exchange.headers.contains_key(AUTHORIZATION) => Ok(()),
        Need::Filtered if !access.is_nobody(identity) => Ok(()),
        Need::Pusher if access.may_push_somewhere(identity) => Ok(()),
        Need::Pusher if !matches!(identity, Identity::Anonymous) => Err(Error::DeniedImages),
        Need::Login | Need::Filtered | Need::Pusher => Err(unauthorized()),
        Need::One(repository, right) if access.may(identity, repository, right) => Ok(()),
        Need::One(..) if matches!(identity, Identity::Anonymous) => Err(unauthorized()),
        Need::One(repository, right) if access.may(identity, repository, Right::Pull) => {
            Err(Error::Denied {
                repository: repository.clone(),
                right,
            })
        }
        Need::One(repository, _) => match route {
            // A repository that is not there has none.
            Route::Referrers(..) => Ok(()),
            _ => Err(absent(route, repository)),
        },
    }
}

/// What the route's handler answers where there is nothing.
fn absent(route: &Route, repository: &Repository) -> Error {
    let manifest = |reference: &Reference| storage::Error::ManifestUnknown {
        repository: repository.clone(),
        reference: reference.clone(),
    };
    match route {
        Route::Blob(_, digest) => Error::Storage(storage::Error::BlobUnknown {
            repository: repository.clone(),
            digest: *digest,
        }),
        Route::Manifest(_, reference) => Error::Storage(manifest(reference)),
        Route::Upload(_, id) => Error::Storage(storage::Error::UploadUnknown {
            repository: repository.clone(),
            id: *id,
        }),
        Route::Files(files) => match &files.image {
            Scope::Repository(_, reference) | Scope::Any(Id::Reference { reference, .. }) => {
                Error::Image(image::Error::Storage(manifest(reference)))
            }
            Scope::Any(id @ Id::Hex { .. }) => Error::Image(image::Error::Unknown(id.to_string())),
        },
        Route::V1(V1::Tag(_, tag) | V1::TagJson(_, tag)) => {
            Error::Storage(manifest(&Reference::Tag(tag.clone())))
        }
        Route::V1(_)
        | Route::Ping
        | Route::Catalog
        | Route::Uploads(_)
        | Route::Tags(_)
        | Route::Referrers(..)
        | Route::Healthz
        | Route::Readyz => Error::Storage(storage::Error::RepositoryUnknown(repository.clone())),
    }
}

fn unauthorized() -> Error {
    Error::Unauthorized(HeaderValue::from_static("Basic realm=\"registry\""))
}

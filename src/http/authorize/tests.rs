use uuid::Uuid;

use super::*;
use crate::docker1::ImageId;
use crate::http::route::{Files, Question, View};
use crate::http::v1::{Part, Topic, V1};
use crate::oci::{Algorithm, Digest, Tag};

fn repository() -> Repository {
    "team/app".parse().unwrap()
}

fn digest() -> Digest {
    Algorithm::Sha256.digest(b"")
}

fn tag() -> Tag {
    "1".parse().unwrap()
}

/// Every route there is. The matches have no other use than to fail to compile when
/// there is a new one: add it here, in the table below, and in tests/access.
fn routes() -> Vec<Route> {
    let files = |image| Files { image, view: View::Tree, path: Vec::new() };
    let reference = || Reference::Tag(tag());
    let image: ImageId = "0123456789abcdef".repeat(4).parse().unwrap();
    let mut routes = vec![
        Route::Ping,
        Route::Token,
        Route::Catalog,
        Route::Blob(repository(), digest()),
        Route::Uploads(repository()),
        Route::Upload(repository(), Uuid::nil()),
        Route::Manifest(repository(), reference()),
        Route::Tags(repository()),
        Route::Referrers(repository(), digest()),
        Route::Files(files(Scope::Repository(repository(), reference()))),
        Route::Files(files(Scope::Any("team/app:1".parse().unwrap()))),
        Route::Files(files(Scope::Any(digest().hex().parse().unwrap()))),
        Route::Query(Question::Find),
        Route::Query(Question::Grep),
        Route::Query(Question::Diff),
        Route::Query(Question::Waste),
        Route::Query(Question::Layers),
        Route::Query(Question::Usage),
        Route::Query(Question::Tags),
        Route::Query(Question::Image),
        Route::Index(repository(), digest()),
        Route::Events,
        Route::Healthz,
        Route::Readyz,
    ];
    let of = |topic| V1::Repository(repository(), topic);
    let v1 = [
        V1::Info,
        V1::Ping,
        V1::Users,
        V1::User,
        V1::Search,
        V1::Repositories,
        of(Topic::Whole),
        of(Topic::Images),
        of(Topic::Auth),
        of(Topic::Json),
        of(Topic::Properties),
        of(Topic::Tags),
        of(Topic::Tag(tag())),
        of(Topic::TagJson(tag())),
        V1::Image(image, Part::Json),
    ];
    for route in &v1 {
        match route {
            V1::Info
            | V1::Ping
            | V1::Users
            | V1::User
            | V1::Search
            | V1::Repositories
            | V1::Image(..) => {}
            V1::Repository(_, topic) => match topic {
                Topic::Whole
                | Topic::Images
                | Topic::Auth
                | Topic::Json
                | Topic::Properties
                | Topic::Tags
                | Topic::Tag(_)
                | Topic::TagJson(_) => {}
            },
        }
    }
    routes.extend(v1.map(Route::V1));
    let image = |id: &str| Page::Image(Place { id: id.parse().unwrap(), path: Vec::new() });
    let pages = [
        Page::Home,
        Page::Search,
        Page::Asset("style.css".to_owned()),
        Page::Login,
        Page::Logout,
        Page::Find,
        Page::Grep,
        Page::Diff,
        Page::Delete(repository(), reference()),
        Page::Repository(repository()),
        image("team/app:1"),
        image(&digest().to_string()),
    ];
    for page in &pages {
        match page {
            Page::Home
            | Page::Search
            | Page::Asset(_)
            | Page::Login
            | Page::Logout
            | Page::Find
            | Page::Grep
            | Page::Diff
            | Page::Delete(..)
            | Page::Repository(_)
            | Page::Image(_) => {}
        }
    }
    routes.extend(pages.map(Route::Page));
    for route in &routes {
        match route {
            Route::Ping
            | Route::Token
            | Route::Catalog
            | Route::Blob(..)
            | Route::Uploads(_)
            | Route::Upload(..)
            | Route::Manifest(..)
            | Route::Tags(_)
            | Route::Referrers(..)
            | Route::Files(_)
            | Route::V1(_)
            | Route::Query(
                Question::Find
                | Question::Grep
                | Question::Diff
                | Question::Waste
                | Question::Layers
                | Question::Usage
                | Question::Tags
                | Question::Image,
            )
            | Route::Index(..)
            | Route::Page(_)
            | Route::Events
            | Route::Healthz
            | Route::Readyz => {}
        }
    }
    routes
}

/// What every route needs, by every method it takes.
#[test]
fn needs() {
    let name = repository();
    let one = |right| Need::One(&name, right);
    let (pull, push, delete) = (one(Right::Pull), one(Right::Push), one(Right::Delete));
    for route in routes() {
        // Of GET and HEAD, of what adds, and of DELETE; `None`: it has no such method.
        let want: [Option<Need>; 3] = match &route {
            Route::Healthz | Route::Readyz => [Some(Need::Nothing), None, None],
            Route::Ping => [Some(Need::Login), None, None],
            Route::Token => [Some(Need::Anybody), None, None],
            Route::Query(Question::Find) => [Some(Need::Filtered), Some(Need::Filtered), None],
            Route::Catalog | Route::Query(_) | Route::Events => [Some(Need::Filtered), None, None],
            Route::Tags(_) | Route::Referrers(..) => [Some(pull), None, None],
            Route::Blob(..) => [Some(pull), None, Some(delete)],
            Route::Manifest(..) => [Some(pull), Some(push), Some(delete)],
            Route::Uploads(_) => [None, Some(push), None],
            Route::Index(..) => [None, Some(pull), None],
            Route::Upload(..) => [Some(push), Some(push), Some(push)],
            Route::Files(files) => match &files.image {
                Scope::Any(Id::Hex { .. }) => [Some(Need::Filtered), None, None],
                _ => [Some(pull), None, None],
            },
            Route::Page(page) => match page {
                Page::Asset(_) => [Some(Need::Nothing), None, None],
                Page::Login => [Some(Need::Anybody), Some(Need::Anybody), None],
                Page::Logout => [None, Some(Need::Anybody), None],
                Page::Home | Page::Search | Page::Find | Page::Grep | Page::Diff => {
                    [Some(Need::Filtered), None, None]
                }
                Page::Delete(..) => [Some(delete), Some(delete), None],
                Page::Image(Place { id: Id::Hex { .. }, .. }) => [Some(Need::Filtered), None, None],
                Page::Repository(_) | Page::Image(_) => [Some(pull), None, None],
            },
            Route::V1(route) => match route {
                V1::Info | V1::Ping => [Some(Need::Nothing), None, None],
                V1::Users => [Some(Need::Login), Some(Need::Login), None],
                V1::User => [None, Some(Need::Login), None],
                V1::Search | V1::Repositories => [Some(Need::Filtered), None, None],
                V1::Image(..) => [Some(Need::Filtered), Some(Need::Pusher), None],
                V1::Repository(_, topic) => match topic {
                    Topic::Whole => [None, Some(push), Some(delete)],
                    Topic::Images | Topic::Tag(_) => [Some(pull), Some(push), Some(delete)],
                    Topic::Auth => [None, Some(push), None],
                    Topic::Json | Topic::TagJson(_) => [Some(pull), None, None],
                    Topic::Properties => [Some(pull), Some(push), None],
                    Topic::Tags => [Some(pull), None, Some(delete)],
                },
            },
        };
        let taken: Vec<&str> = route.methods(false).split(", ").collect();
        for (method, want) in [
            ("GET", want[0]),
            ("HEAD", want[0]),
            ("PUT", want[1]),
            ("POST", want[1]),
            ("PATCH", want[1]),
            ("DELETE", want[2]),
        ] {
            if taken.contains(&method) {
                let method = method.parse().unwrap();
                assert_eq!(Some(need(&route, &method)), want, "{method} {route:?}");
            }
        }
        // No row for what is not there.
        let adds = ["PUT", "POST", "PATCH"].iter().any(|m| taken.contains(m));
        let has = [taken.contains(&"GET"), adds, taken.contains(&"DELETE")];
        assert_eq!(want.map(|want| want.is_some()), has, "{route:?}");
    }
}

/// Whatever may not be seen has an answer that is 404 for the right thing.
#[test]
fn absences() {
    for route in routes() {
        let (status, code) = absent(&route, &repository()).status_and_code();
        assert_eq!(status.as_u16(), 404, "{route:?}");
        let want = match &route {
            Route::Blob(..) | Route::Index(..) => "BLOB_UNKNOWN",
            Route::Upload(..) => "BLOB_UPLOAD_UNKNOWN",
            Route::Manifest(..) | Route::Files(_) => "MANIFEST_UNKNOWN",
            Route::Page(Page::Delete(..)) => "MANIFEST_UNKNOWN",
            Route::Page(Page::Image(Place { id: Id::Reference { .. }, .. })) => "MANIFEST_UNKNOWN",
            Route::V1(V1::Repository(_, Topic::Tag(_) | Topic::TagJson(_))) => "MANIFEST_UNKNOWN",
            _ => "NAME_UNKNOWN",
        };
        assert_eq!(code, want, "{route:?}");
    }
}

#[test]
fn scopes() {
    let of = |route: Route, method: &str| scope(&route, &method.parse().unwrap());
    let blob = || Route::Blob(repository(), digest());
    for (scope, want) in [
        (of(blob(), "GET"), Some("repository:team/app:pull")),
        (of(blob(), "DELETE"), Some("repository:team/app:delete")),
        (of(Route::Uploads(repository()), "POST"), Some("repository:team/app:pull,push")),
        (of(Route::Catalog, "GET"), Some("registry:catalog:*")),
        (of(Route::Ping, "GET"), None),
    ] {
        assert_eq!(scope.as_deref(), want);
    }
}

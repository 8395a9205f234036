//! A notification, as distribution writes one (its notifications/event.go).

use serde_json::{Value, json};
use uuid::Uuid;

use crate::events::{Event, Kind};

/// This server, as notifications tell it.
#[derive(Debug)]
pub struct Source {
    scheme: String,
    /// The server's public name and port. What a client sends as `Host` is not used, because it
    /// could send the receivers of notifications anywhere.
    address: String,
    instance: Uuid,
}

impl Source {
    pub fn new((scheme, address): (String, String)) -> Source {
        Source { scheme, address, instance: Uuid::new_v4() }
    }

    /// The notification of an event, as one line without its end; `None` for
    /// events that distribution has none for.
    pub fn notification(&self, event: &Event) -> Option<String> {
        if !event.notable {
            return None;
        }
        let repository = event.repository.as_ref()?;
        let cause = &event.cause;
        let action = match event.kind {
            Kind::Layer if event.from.is_some() => "mount",
            Kind::Tag | Kind::Image | Kind::Layer | Kind::Verify => "push",
            Kind::Untag | Kind::Delete => "delete",
            Kind::Index => return None,
        };
        let mut target = json!({"repository": repository.as_str()});
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                target[name] = value;
            }
        };
        set("tag", event.tag.as_ref().map(|tag| tag.as_str().into()));
        // Of a tag that was taken away the manifest is still there.
        if let Some(digest) = event.digest.filter(|_| event.kind != Kind::Untag) {
            set("digest", Some(digest.to_string().into()));
            if action != "delete" {
                set("mediaType", event.media_type.map(Value::from));
                set("size", event.size.map(Value::from));
                set("length", event.size.map(Value::from));
                let from = event.from.as_ref();
                set("fromRepository", from.map(|from| from.as_str().into()));
                let part = match event.kind {
                    Kind::Layer => "blobs",
                    _ => "manifests",
                };
                let Source { scheme, address, .. } = self;
                let url = format!("{scheme}://{address}/v2/{repository}/{part}/{digest}");
                set("url", Some(url.into()));
            }
        }
        let actor = match &cause.user {
            Some(user) => json!({"name": user}),
            None => json!({}),
        };
        let notification = json!({
            "id": Uuid::new_v4().to_string(),
            "timestamp": event.time.to_string(),
            "action": action,
            "target": target,
            "request": {
                "id": format!("{:016x}", cause.request),
                "addr": cause.address.map(|address| address.to_string()),
                "host": self.address,
                "method": cause.method,
                "useragent": cause.user_agent,
            },
            "actor": actor,
            "source": {"addr": self.address, "instanceID": self.instance.to_string()},
        });
        Some(notification.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::events::Cause;
    use crate::oci::Algorithm;

    #[test]
    fn as_distribution_has_them() {
        let source = Source::new(("https".into(), "registry.example.org".into()));
        let cause = Arc::new(Cause {
            user: Some("a \"b\"\n".into()),
            address: Some("192.0.2.1:5".parse::<std::net::SocketAddr>().unwrap().into()),
            request: 10,
            method: "PUT".into(),
            host: "evil.example".into(),
            user_agent: "docker/28".into(),
        });
        let digest = Algorithm::Sha256.digest(b"x");
        let event = |kind| {
            let event = Event::new(kind, digest.hex(), &cause);
            Event {
                media_type: Some("application/x"),
                size: Some(3),
                ..event.repository(&"team/app".parse().unwrap()).digest(&digest)
            }
        };
        let tag = "1.0".parse().unwrap();
        let target = |part: &str| {
            json!({
                "repository": "team/app",
                "digest": digest.to_string(),
                "mediaType": "application/x",
                "size": 3,
                "length": 3,
                "url": format!("https://registry.example.org/v2/team/app/{part}/{digest}"),
            })
        };
        let with = |mut target: Value, name: &str, value: &str| {
            target[name] = value.into();
            target
        };
        let mounted = Event { from: Some("other".parse().unwrap()), ..event(Kind::Layer) };
        for (event, action, target) in [
            (event(Kind::Tag).tag(&tag), "push", with(target("manifests"), "tag", "1.0")),
            (event(Kind::Layer), "push", target("blobs")),
            (mounted, "mount", with(target("blobs"), "fromRepository", "other")),
            (
                event(Kind::Untag).tag(&tag),
                "delete",
                json!({"repository": "team/app", "tag": "1.0"}),
            ),
            (
                event(Kind::Delete),
                "delete",
                json!({"repository": "team/app", "digest": digest.to_string()}),
            ),
        ] {
            let line = source.notification(&event).unwrap();
            assert!(!line.contains('\n'), "{line}");
            let mut got: Value = serde_json::from_str(&line).unwrap();
            let id = got["id"].take();
            assert!(id.as_str().unwrap().parse::<Uuid>().is_ok());
            let source = got["source"].take();
            assert!(source["addr"].as_str().unwrap().ends_with("example.org"));
            let want = json!({
                "id": null,
                "timestamp": event.time.to_string(),
                "action": action,
                "target": target,
                "request": {
                    "id": "000000000000000a",
                    "addr": "192.0.2.1:5",
                    "host": "registry.example.org",
                    "method": "PUT",
                    "useragent": "docker/28",
                },
                "actor": {"name": "a \"b\"\n"},
                "source": null,
            });
            assert_eq!(got, want);
        }
        for kind in [Kind::Image, Kind::Verify, Kind::Index] {
            assert_eq!(source.notification(&event(kind)), None, "{kind:?}");
        }
        let untagged = Event { notable: true, ..event(Kind::Verify) };
        assert!(source.notification(&untagged).is_some());
    }
}

//! Paths: `/api/v1/namespaces/NS/pods/NAME/status` and everything that is not one.

use std::borrow::Cow;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourcePath {
    /// "" is core.
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: Option<String>,
    /// Also set for a namespace object itself, as Kubernetes' authorizer sees it.
    pub namespace: Option<String>,
    pub name: Option<String>,
    /// The old `/api/v1/watch/…` spelling.
    pub watch: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Resource(ResourcePath),
    /// Discovery, health, and what nobody serves.
    Path(String),
}

pub fn parse(path: &str) -> Target {
    match resource_path(path) {
        Some(resource) => Target::Resource(resource),
        None => Target::Path(path.to_owned()),
    }
}

fn resource_path(path: &str) -> Option<ResourcePath> {
    let segments: Vec<String> = path
        .trim_matches('/')
        .split('/')
        .map(|segment| decode(segment, false).into_owned())
        .collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let (group, version, mut rest) = match segments.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let mut found = ResourcePath {
        group: group.to_owned(),
        version: version.to_owned(),
        ..ResourcePath::default()
    };
    if let ["watch", inner @ ..] = rest
        && !inner.is_empty()
    {
        found.watch = true;
        rest = inner;
    }
    match rest {
        ["namespaces", namespace, "status" | "finalize"] => {
            found.resource = "namespaces".to_owned();
            found.namespace = Some((*namespace).to_owned());
            found.name = Some((*namespace).to_owned());
            found.subresource = Some(rest[2].to_owned());
            return Some(found);
        }
        ["namespaces", namespace, inner @ ..] => {
            found.namespace = Some((*namespace).to_owned());
            rest = if inner.is_empty() { &rest[..2] } else { inner };
        }
        _ => {}
    }
    match rest {
        [] | [""] => return None,
        [resource] => found.resource = (*resource).to_owned(),
        [resource, name] => {
            found.resource = (*resource).to_owned();
            found.name = Some((*name).to_owned());
        }
        [resource, name, subresource] => {
            found.resource = (*resource).to_owned();
            found.name = Some((*name).to_owned());
            found.subresource = Some((*subresource).to_owned());
        }
        _ => return None,
    }
    let empty_part = |part: &Option<String>| part.as_deref() == Some("");
    if empty_part(&found.name) || empty_part(&found.namespace) || empty_part(&found.subresource) {
        return None;
    }
    Some(found)
}

/// Percent-decoding; in queries `+` is a space. What is not valid stays as it was.
pub fn decode(text: &str, plus_is_space: bool) -> Cow<'_, str> {
    if !text
        .bytes()
        .any(|b| b == b'%' || (plus_is_space && b == b'+'))
    {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (bytes[at], hex) {
            (_, Some(byte)) => {
                out.push(byte);
                at += 3;
                continue;
            }
            (b'+', _) if plus_is_space => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    Cow::Owned(String::from_utf8(out).unwrap_or_else(|_| text.to_owned()))
}

/// The pairs of a query, decoded, in order; empty ones skipped.
pub fn query_pairs(query: &str) -> Vec<(String, String)> {
    query
        .trim_start_matches('?')
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (
                decode(key, true).into_owned(),
                decode(value, true).into_owned(),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(path: &str) -> ResourcePath {
        match parse(path) {
            Target::Resource(found) => found,
            Target::Path(path) => panic!("{path} is a resource"),
        }
    }

    #[test]
    fn resource_paths() {
        let pods = resource("/api/v1/namespaces/default/pods");
        assert_eq!(
            (pods.resource.as_str(), pods.namespace.as_deref(), pods.name),
            ("pods", Some("default"), None)
        );
        let status = resource("/apis/apps/v1/namespaces/a/deployments/web/status");
        assert_eq!(status.group, "apps");
        assert_eq!(status.name.as_deref(), Some("web"));
        assert_eq!(status.subresource.as_deref(), Some("status"));
        let namespace = resource("/api/v1/namespaces/a");
        assert_eq!(
            (namespace.resource.as_str(), namespace.name.as_deref()),
            ("namespaces", Some("a"))
        );
        let finalize = resource("/api/v1/namespaces/a/finalize");
        assert_eq!(
            (finalize.resource.as_str(), finalize.subresource.as_deref()),
            ("namespaces", Some("finalize"))
        );
        assert_eq!(resource("/api/v1/namespaces").resource, "namespaces");
        let node = resource("/api/v1/nodes/a%3Ab");
        assert_eq!(node.name.as_deref(), Some("a:b"));
        let watch = resource("/api/v1/watch/namespaces/a/pods");
        assert!(watch.watch && watch.resource == "pods");
    }

    #[test]
    fn other_paths() {
        for path in [
            "/",
            "/api",
            "/api/v1",
            "/apis/apps/v1",
            "/version",
            "/livez/etcd",
            "/apis/apps",
            "/api/v1/namespaces//pods",
        ] {
            assert_eq!(parse(path), Target::Path(path.to_owned()));
        }
    }

    #[test]
    fn queries() {
        assert_eq!(
            query_pairs("?&labelSelector=a%3Db%2Cc+d&watch"),
            [
                ("labelSelector".to_owned(), "a=b,c d".to_owned()),
                ("watch".to_owned(), String::new())
            ]
        );
        assert_eq!(decode("100%", false), "100%");
    }
}

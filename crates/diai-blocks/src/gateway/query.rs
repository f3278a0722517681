//! What is asked of a gateway: the path and query of a URL, and the `Accept` header beside it. Read by the server, written
//! by the client.

use std::{fmt, ops::Range};

use cid::Cid;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::unixfs::MAX_DEPTH;

/// The type of a block and nothing else.
pub const RAW_TYPE: &str = "application/vnd.ipld.raw";
/// The type of a CAR file.
pub const CAR_TYPE: &str = "application/vnd.ipld.car";
/// A longer path and query is refused.
pub const MAX_TARGET_BYTES: usize = 8 << 10;

/// What stands in a name as it is.
const NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// In what form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// One block.
    Raw,
    /// A CAR file of version 1, depth first, each block once.
    Car,
}

/// How much of the DAG comes, beside the blocks of the path to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum DagScope {
    /// The block itself.
    Block,
    /// A file, or what it takes to list a folder; of all else the block itself.
    Entity,
    /// All of it.
    #[default]
    All,
}

impl fmt::Display for DagScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Block => "block",
            Self::Entity => "entity",
            Self::All => "all",
        })
    }
}

/// Bytes of a file: the first and the last of them, negative when counted from the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntityBytes {
    /// The first.
    pub from: i64,
    /// The last; `None` stands for the end.
    pub to: Option<i64>,
}

impl fmt::Display for EntityBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to {
            Some(to) => write!(f, "{}:{to}", self.from),
            None => write!(f, "{}:*", self.from),
        }
    }
}

impl EntityBytes {
    fn parse(text: &str) -> Option<Self> {
        let (from, to) = text.split_once(':')?;
        let to = if to == "*" { None } else { Some(to.parse().ok()?) };
        let from = from.parse().ok()?;
        let backwards = to.is_some_and(|to: i64| (from < 0) == (to < 0) && to < from);
        (!backwards).then_some(Self { from, to })
    }

    /// Of a file of `size` bytes; what is outside it is cut off.
    pub fn within(&self, size: u64) -> Range<u64> {
        let at = |offset: i64| match u64::try_from(offset) {
            Ok(offset) => offset.min(size),
            Err(_) => size.saturating_sub(offset.unsigned_abs()),
        };
        let start = at(self.from);
        let end = match self.to {
            None => size,
            // Before the file.
            Some(to) if to < 0 && to.unsigned_abs() > size => 0,
            Some(to) => at(to).saturating_add(1).min(size),
        };
        start..end.max(start)
    }
}

/// Why a request makes no sense to a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// Not below `/ipfs/`.
    #[error("there is nothing here but /ipfs/CID; names (/ipns/) are not resolved")]
    Path,
    /// More than [`MAX_TARGET_BYTES`], or [`MAX_DEPTH`] folders.
    #[error("the path is too long")]
    TooLong,
    /// No CID.
    #[error("what follows /ipfs/ is no CID")]
    Cid,
    /// A name that is no text.
    #[error("a name in the path is no UTF-8 text")]
    Name,
    /// Neither `format` nor `Accept`.
    #[error(
        "only verifiable answers are given: add ?format=raw or ?format=car, or an Accept header of \
         application/vnd.ipld.raw or application/vnd.ipld.car"
    )]
    NoFormat,
    /// A form that is not served.
    #[error(
        "of the forms asked for none is served: application/vnd.ipld.raw and application/vnd.ipld.car; version=1 are"
    )]
    Format,
    /// A path below a block.
    #[error("a path leads nowhere with format=raw; ask for the block by its own CID, or for format=car")]
    RawPath,
    /// `dag-scope` is none.
    #[error("dag-scope is block, entity or all")]
    Scope,
    /// `entity-bytes` is no range.
    #[error("entity-bytes is FROM:TO or FROM:*, in bytes, not backwards")]
    Bytes,
}

/// What is asked of a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Where the path begins.
    pub cid: Cid,
    /// The names that follow, none of them empty.
    pub path: Vec<String>,
    /// In what form.
    pub format: Format,
    /// How much, in a CAR file.
    pub scope: DagScope,
    /// Which bytes of a file, in a CAR file; the scope is [`DagScope::Entity`] then.
    pub bytes: Option<EntityBytes>,
}

impl Query {
    /// The block `cid`.
    pub fn raw(cid: Cid) -> Self {
        Self { cid, path: Vec::new(), format: Format::Raw, scope: DagScope::Block, bytes: None }
    }

    /// A CAR file of `scope` of `cid`.
    pub fn car(cid: Cid, scope: DagScope) -> Self {
        Self { cid, path: Vec::new(), format: Format::Car, scope, bytes: None }
    }

    /// What `target`, the path and query of a URL, asks for, with `accept`, the value of that header.
    pub fn parse(target: &str, accept: Option<&str>) -> Result<Self, QueryError> {
        if target.len() > MAX_TARGET_BYTES {
            return Err(QueryError::TooLong);
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut names = path.strip_prefix("/ipfs/").ok_or(QueryError::Path)?.split('/');
        let cid = names.next().and_then(|cid| cid.parse().ok()).ok_or(QueryError::Cid)?;
        let decoded =
            |name: &str| percent_decode_str(name).decode_utf8().map(String::from).map_err(|_| QueryError::Name);
        let path: Vec<_> = names.filter(|name| !name.is_empty()).map(decoded).collect::<Result<_, _>>()?;
        if path.len() > MAX_DEPTH {
            return Err(QueryError::TooLong);
        }
        let parameter = |name| parameter(query, name);
        let format = match (parameter("format").as_deref(), accept) {
            (Some("raw"), _) => Format::Raw,
            (Some("car"), _) => Format::Car,
            (Some(_), _) => return Err(QueryError::Format),
            (None, None) => return Err(QueryError::NoFormat),
            (None, Some(accept)) => accepted(accept)?,
        };
        if format == Format::Raw {
            return if path.is_empty() { Ok(Self::raw(cid)) } else { Err(QueryError::RawPath) };
        }
        if parameter("car-version").is_some_and(|version| version != "1") {
            return Err(QueryError::Format);
        }
        let bytes =
            parameter("entity-bytes").map(|text| EntityBytes::parse(&text).ok_or(QueryError::Bytes)).transpose()?;
        let scope = match parameter("dag-scope").as_deref() {
            None if bytes.is_some() => DagScope::Entity,
            None | Some("all") => DagScope::All,
            Some("entity") => DagScope::Entity,
            Some("block") => DagScope::Block,
            Some(_) => return Err(QueryError::Scope),
        };
        // A range implies an entity, whatever else is said.
        let scope = if bytes.is_some() { DagScope::Entity } else { scope };
        Ok(Self { cid, path, format, scope, bytes })
    }

    /// The path and query that ask for it.
    pub fn target(&self) -> String {
        let mut target = format!("/ipfs/{}", self.cid);
        for name in &self.path {
            target.push('/');
            target.extend(utf8_percent_encode(name, NAME));
        }
        match self.format {
            Format::Raw => target.push_str("?format=raw"),
            Format::Car => target.push_str(&format!("?format=car&dag-scope={}", self.scope)),
        }
        if let Some(bytes) = self.bytes {
            target.push_str(&format!("&entity-bytes={bytes}"));
        }
        target
    }

    /// The `Accept` header beside it.
    pub fn accept(&self) -> &'static str {
        match self.format {
            Format::Raw => RAW_TYPE,
            Format::Car => "application/vnd.ipld.car; version=1; order=dfs; dups=n",
        }
    }
}

/// The first value of the parameter `name`.
fn parameter(query: &str, name: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name))?.1;
    Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
}

/// The first form in `accept` that is served.
fn accepted(accept: &str) -> Result<Format, QueryError> {
    let mut forms = accept.split(',').filter_map(|form| {
        let mut parts = form.split(';').map(str::trim);
        let media = parts.next()?.to_ascii_lowercase();
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            let value = value.trim_matches('"');
            let refused = match name.to_ascii_lowercase().as_str() {
                "q" => value.parse::<f32>().is_ok_and(|q| q <= 0.0),
                "version" => media == CAR_TYPE && value != "1",
                _ => false,
            };
            if refused {
                return None;
            }
        }
        match media.as_str() {
            RAW_TYPE => Some(Format::Raw),
            CAR_TYPE => Some(Format::Car),
            _ => None,
        }
    });
    forms.next().ok_or(QueryError::Format)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CID: &str = "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq";

    fn parse(rest: &str, accept: Option<&str>) -> Result<Query, QueryError> {
        Query::parse(&format!("/ipfs/{CID}{rest}"), accept)
    }

    #[test]
    fn a_query_comes_back_as_it_was_sent() {
        let cid = CID.parse().unwrap();
        let path = vec!["a b".to_owned(), "ключ/%".to_owned(), "..".to_owned()];
        let bytes = Some(EntityBytes { from: -9, to: None });
        let queries = [
            Query::raw(cid),
            Query::car(cid, DagScope::All),
            Query { path: path.clone(), ..Query::car(cid, DagScope::Block) },
            Query { path, bytes, ..Query::car(cid, DagScope::Entity) },
        ];
        for query in queries {
            assert_eq!(Query::parse(&query.target(), None), Ok(query.clone()));
            assert_eq!(Query::parse(&query.target(), Some(query.accept())), Ok(query));
        }
    }

    #[test]
    fn what_is_asked_for_is_written_as_other_gateways_read_it() {
        let cid = CID.parse().unwrap();
        assert_eq!(Query::raw(cid).target(), format!("/ipfs/{CID}?format=raw"));
        let query = Query {
            path: vec!["a b".into()],
            bytes: Some(EntityBytes { from: 0, to: Some(9) }),
            ..Query::car(cid, DagScope::Entity)
        };
        assert_eq!(query.target(), format!("/ipfs/{CID}/a%20b?format=car&dag-scope=entity&entity-bytes=0:9"));
    }

    #[test]
    fn the_form_is_told_by_the_query_or_else_by_the_header() {
        let form = |rest, accept| parse(rest, accept).map(|query| query.format);
        assert_eq!(form("", Some("text/html, application/vnd.ipld.raw;q=0.5")), Ok(Format::Raw));
        assert_eq!(form("", Some("Application/vnd.ipld.CAR; version=1; order=dfs")), Ok(Format::Car));
        assert_eq!(form("", Some("application/vnd.ipld.car;version=2, application/vnd.ipld.raw")), Ok(Format::Raw));
        assert_eq!(form("?format=car", Some(RAW_TYPE)), Ok(Format::Car));
        assert_eq!(form("", None), Err(QueryError::NoFormat));
        for (rest, accept) in [
            ("", Some("text/html")),
            ("", Some("*/*")),
            ("", Some("application/vnd.ipld.raw;q=0")),
            ("?format=tar", Some(RAW_TYPE)),
            ("?format=car&car-version=2", None),
        ] {
            assert_eq!(form(rest, accept), Err(QueryError::Format), "{rest} {accept:?}");
        }
    }

    #[test]
    fn faulty_queries_are_told_apart() {
        assert_eq!(Query::parse("/ipns/example.org?format=raw", None), Err(QueryError::Path));
        assert_eq!(Query::parse("/", None), Err(QueryError::Path));
        assert_eq!(Query::parse("/ipfs/?format=raw", None), Err(QueryError::Cid));
        assert_eq!(Query::parse("/ipfs/nonsense?format=raw", None), Err(QueryError::Cid));
        assert_eq!(parse("/a?format=raw", None), Err(QueryError::RawPath));
        assert_eq!(parse("/%ff?format=car", None), Err(QueryError::Name));
        assert_eq!(parse("?format=car&dag-scope=some", None), Err(QueryError::Scope));
        assert_eq!(parse(&format!("{}?format=car", "/a".repeat(MAX_DEPTH + 1)), None), Err(QueryError::TooLong));
        assert_eq!(parse(&format!("/{}?format=car", "a".repeat(MAX_TARGET_BYTES)), None), Err(QueryError::TooLong));
        for bytes in ["", "1", "a:b", "*:1", "5:4", "-4:-5", "99999999999999999999:*", "0x1:2"] {
            assert_eq!(parse(&format!("?format=car&entity-bytes={bytes}"), None), Err(QueryError::Bytes), "{bytes}");
        }
    }

    #[test]
    fn a_range_is_cut_to_the_file_it_is_of() {
        let within = |text: &str, size| EntityBytes::parse(text).unwrap().within(size);
        assert_eq!(within("0:*", 10), 0..10);
        assert_eq!(within("2:4", 10), 2..5);
        assert_eq!(within("2:99", 10), 2..10);
        assert_eq!(within("-4:*", 10), 6..10);
        assert_eq!(within("-99:*", 10), 0..10);
        assert_eq!(within("1:-2", 10), 1..9);
        assert_eq!(within("8:-5", 10), 8..8);
        assert_eq!(within("0:-11", 10), 0..0);
        assert_eq!(within("10:*", 10), 10..10);
        assert_eq!(within("0:*", 0), 0..0);
        assert_eq!(within(&format!("{}:{}", i64::MIN, i64::MAX), u64::MAX), (1 << 63) - 1..1 << 63);
    }
}

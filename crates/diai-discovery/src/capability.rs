use std::{borrow::Borrow, fmt, str::FromStr};

/// What an agent can do, as a path from the general to the particular: `modeling/3d/cad`.
///
/// One to eight segments of `a-z`, `0-9`, `-`, `_` and `.`, 128 bytes in all. Who registers a path is found under each of
/// its ancestors too.
///
/// ```
/// use diai_discovery::CapabilityPath;
///
/// let path: CapabilityPath = "modeling/3d/cad".parse()?;
/// assert!(path.is_within(&"modeling".parse()?));
/// assert!(!path.is_within(&"model".parse()?));
/// # Ok::<(), diai_discovery::ParseCapabilityError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CapabilityPath(String);

impl CapabilityPath {
    /// The longest path in bytes.
    pub const MAX_BYTES: usize = 128;
    /// The most segments of a path.
    pub const MAX_SEGMENTS: usize = 8;

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this path is `ancestor` or lies below it.
    pub fn is_within(&self, ancestor: &Self) -> bool {
        self.0.strip_prefix(&ancestor.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The paths above this one, nearest first, without the path itself: `a/b/c` has `a/b` and `a`.
    pub fn ancestors(&self) -> impl Iterator<Item = Self> + '_ {
        self.0.rmatch_indices('/').map(|(end, _)| Self(self.0[..end].to_owned()))
    }
}

impl FromStr for CapabilityPath {
    type Err = ParseCapabilityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > Self::MAX_BYTES {
            return Err(ParseCapabilityError::TooLong { bytes: text.len() });
        }
        let mut segments = 0;
        for segment in text.split('/') {
            segments += 1;
            if segment.is_empty() {
                return Err(ParseCapabilityError::EmptySegment);
            }
            if let Some(character) = segment.chars().find(|&character| !is_name_char(character)) {
                return Err(ParseCapabilityError::Character { character });
            }
        }
        if segments > Self::MAX_SEGMENTS {
            return Err(ParseCapabilityError::TooDeep { segments });
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<&str> for CapabilityPath {
    type Error = ParseCapabilityError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        text.parse()
    }
}

// Sound: the derived order is that of the text.
impl Borrow<str> for CapabilityPath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CapabilityPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CapabilityPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether `character` may stand in a path segment or the name of an attribute.
pub(crate) fn is_name_char(character: char) -> bool {
    matches!(character, 'a'..='z' | '0'..='9' | '-' | '_' | '.')
}

/// Why a text is no [`CapabilityPath`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseCapabilityError {
    /// Longer than [`CapabilityPath::MAX_BYTES`].
    #[error("a capability path of {bytes} bytes; at most {} are allowed", CapabilityPath::MAX_BYTES)]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// More segments than [`CapabilityPath::MAX_SEGMENTS`].
    #[error("a capability path of {segments} segments; at most {} are allowed", CapabilityPath::MAX_SEGMENTS)]
    TooDeep {
        /// How many it has.
        segments: usize,
    },
    /// Nothing between two slashes, before the first or after the last.
    #[error("a capability path has no empty segments: write it like modeling/3d/cad")]
    EmptySegment,
    /// A character that is not allowed.
    #[error("{character:?} cannot stand in a capability path: use a-z, 0-9, '-', '_', '.' and '/' between segments")]
    Character {
        /// Which.
        character: char,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> CapabilityPath {
        text.parse().unwrap()
    }

    #[test]
    fn ancestors_go_from_the_nearest_to_the_root() {
        let ancestors: Vec<_> = path("market/data/diamonds").ancestors().map(|path| path.to_string()).collect();
        assert_eq!(ancestors, ["market/data", "market"]);
        assert_eq!(path("market").ancestors().count(), 0);
    }

    #[test]
    fn a_path_is_within_itself_and_its_ancestors_but_not_within_a_longer_name() {
        assert!(path("a/b").is_within(&path("a/b")));
        assert!(path("a/b").is_within(&path("a")));
        assert!(!path("a").is_within(&path("a/b")));
        assert!(!path("ab").is_within(&path("a")));
        assert!(!path("a-b").is_within(&path("a")));
    }

    #[test]
    fn what_is_no_path_is_refused_with_its_own_error() {
        use ParseCapabilityError::*;
        for (text, error) in [
            ("", EmptySegment),
            ("/a", EmptySegment),
            ("a/", EmptySegment),
            ("a//b", EmptySegment),
            ("A", Character { character: 'A' }),
            ("a b", Character { character: ' ' }),
            ("ä", Character { character: 'ä' }),
            ("1/2/3/4/5/6/7/8/9", TooDeep { segments: 9 }),
        ] {
            assert_eq!(text.parse::<CapabilityPath>(), Err(error), "{text:?}");
        }
        assert_eq!("a".repeat(129).parse::<CapabilityPath>(), Err(TooLong { bytes: 129 }));
        assert!("a".repeat(128).parse::<CapabilityPath>().is_ok());
        assert!("1/2/3/4/5/6/7/8".parse::<CapabilityPath>().is_ok());
    }
}

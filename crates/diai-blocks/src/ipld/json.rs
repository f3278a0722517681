use cid::{Cid, multibase};

use super::{MAX_DEPTH, MAX_LINKS};
use crate::dag_pb::exact_cid;

/// The longest CID in the most verbose of bases.
const MAX_CID_TEXT_BYTES: usize = 1400;

/// Why bytes are no dag-json. Offsets are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// The bytes end within a value.
    #[error("the dag-json node is cut short")]
    Truncated,
    /// No JSON.
    #[error("the dag-json node is no JSON at byte {offset}")]
    Syntax {
        /// Where.
        offset: usize,
    },
    /// `{"/": "..."}` without a CID.
    #[error("the dag-json node has a link that is no CID at byte {offset}")]
    Link {
        /// Where.
        offset: usize,
    },
    /// `{"/": {"bytes": "..."}}` without base64.
    #[error("the dag-json node has bytes that are no base64 at byte {offset}")]
    Bytes {
        /// Where.
        offset: usize,
    },
    /// More than [`MAX_DEPTH`].
    #[error("the dag-json node is nested too deeply")]
    TooDeep,
    /// More than [`MAX_LINKS`].
    #[error("the dag-json node has too many links")]
    TooManyLinks,
}

/// The links of a dag-json node.
pub(super) fn links(data: &[u8]) -> Result<Vec<Cid>, JsonError> {
    let mut scanner = Scanner { data, at: 0 };
    // The ends of what is open.
    let (mut open, mut links) = (Vec::<u8>::new(), Vec::new());
    scanner.space();
    loop {
        let begin = scanner.peek()?;
        match begin {
            b'{' if let Some(found) = scanner.reserved()? => match found {
                Some(_) if links.len() == MAX_LINKS => return Err(JsonError::TooManyLinks),
                found => links.extend(found),
            },
            b'{' | b'[' if open.len() == MAX_DEPTH => return Err(JsonError::TooDeep),
            b'{' | b'[' => {
                scanner.at += 1;
                scanner.space();
                // In ASCII the two brackets are two apart.
                let end = begin + 2;
                open.push(end);
                if scanner.peek()? != end {
                    scanner.key_if(end)?;
                    continue;
                }
            }
            _ => scanner.scalar(begin)?,
        }
        // After a value: ends, and the comma before the next one.
        loop {
            scanner.space();
            let Some(&end) = open.last() else {
                scanner.end()?;
                return Ok(links);
            };
            let comma = scanner.take_if(b',')?;
            scanner.space();
            // Kubo takes a comma before an end.
            if scanner.take_if(end)? {
                open.pop();
            } else if comma {
                scanner.key_if(end)?;
                break;
            } else {
                return Err(JsonError::Syntax { offset: scanner.at });
            }
        }
    }
}

#[derive(Clone)]
struct Scanner<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    fn peek(&self) -> Result<u8, JsonError> {
        self.data.get(self.at).copied().ok_or(JsonError::Truncated)
    }

    fn take_if(&mut self, byte: u8) -> Result<bool, JsonError> {
        let is = self.peek()? == byte;
        self.at += usize::from(is);
        Ok(is)
    }

    fn take(&mut self, byte: u8) -> Result<(), JsonError> {
        if self.take_if(byte)? { Ok(()) } else { Err(JsonError::Syntax { offset: self.at }) }
    }

    fn space(&mut self) {
        while matches!(self.data.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// Nothing but space follows; Kubo takes zeros for space here.
    fn end(&self) -> Result<(), JsonError> {
        let other = self.data[self.at..].iter().position(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0));
        other.map_or(Ok(()), |other| Err(JsonError::Syntax { offset: self.at + other }))
    }

    /// The key before a value, if what ends with `end` is a map.
    fn key_if(&mut self, end: u8) -> Result<(), JsonError> {
        if end == b'}' { self.key().map(drop) } else { Ok(()) }
    }

    fn key(&mut self) -> Result<&'a [u8], JsonError> {
        let key = self.string()?;
        self.space();
        self.take(b':')?;
        self.space();
        Ok(key)
    }

    fn scalar(&mut self, begin: u8) -> Result<(), JsonError> {
        let word: &[u8] = match begin {
            b'"' => return self.string().map(drop),
            b'-' | b'0'..=b'9' => {
                let digits = self.data[self.at + 1..].iter();
                let more = digits.take_while(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'));
                let more = more.count();
                if begin == b'-' && more == 0 {
                    return Err(JsonError::Syntax { offset: self.at });
                }
                self.at += 1 + more;
                return Ok(());
            }
            b't' => b"true",
            b'f' => b"false",
            b'n' => b"null",
            _ => return Err(JsonError::Syntax { offset: self.at }),
        };
        word.iter().try_for_each(|byte| self.take(*byte))
    }

    /// A string, as it stands between its quotes.
    fn string(&mut self) -> Result<&'a [u8], JsonError> {
        self.take(b'"')?;
        let from = self.at;
        loop {
            match self.peek()? {
                b'"' => break,
                0..0x20 => return Err(JsonError::Syntax { offset: self.at }),
                b'\\' => {
                    self.at += 1;
                    let hex = match self.peek()? {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 0,
                        b'u' => 4,
                        _ => return Err(JsonError::Syntax { offset: self.at }),
                    };
                    for _ in 0..hex {
                        self.at += 1;
                        if !self.peek()?.is_ascii_hexdigit() {
                            return Err(JsonError::Syntax { offset: self.at });
                        }
                    }
                }
                _ => {}
            }
            self.at += 1;
        }
        self.at += 1;
        Ok(&self.data[from..self.at - 1])
    }

    /// Takes a map that stands for a link, which is returned, or for bytes. Nothing is taken of another map.
    fn reserved(&mut self) -> Result<Option<Option<Cid>>, JsonError> {
        let mut ahead = self.clone();
        // What is no JSON is found again by the one who reads on.
        let Some((link, text)) = ahead.reserved_text().ok().flatten() else { return Ok(None) };
        let offset = self.at;
        *self = ahead;
        let text = unescaped(text, MAX_CID_TEXT_BYTES.max(text.len() * usize::from(!link)));
        if !link {
            return if text.is_some_and(|text| is_base64(&text)) {
                Ok(Some(None))
            } else {
                Err(JsonError::Bytes { offset })
            };
        }
        text.and_then(|text| parse_cid(&text)).map(|cid| Some(Some(cid))).ok_or(JsonError::Link { offset })
    }

    /// The string in `{"/":""}` (true) or `{"/":{"bytes":""}}` (false).
    fn reserved_text(&mut self) -> Result<Option<(bool, &'a [u8])>, JsonError> {
        let mut begin = |key: &str| {
            self.at += 1;
            self.space();
            let is = self.peek()? == b'"' && unescaped(self.key()?, 64).is_some_and(|found| found == key);
            Ok(if is { Some(self.peek()?) } else { None })
        };
        let link = match begin("/")? {
            Some(b'"') => true,
            Some(b'{') if begin("bytes")? == Some(b'"') => false,
            _ => return Ok(None),
        };
        let text = self.string()?;
        for _ in 0..if link { 1 } else { 2 } {
            self.space();
            if self.take_if(b',')? {
                self.space();
            }
            if !self.take_if(b'}')? {
                return Ok(None);
            }
        }
        Ok(Some((link, text)))
    }
}

/// A string without its escapes; `None` if it is over `max_bytes`, or has what no CID, base64 or key of ours has.
fn unescaped(raw: &[u8], max_bytes: usize) -> Option<String> {
    if raw.len() > max_bytes {
        return None;
    }
    let (mut text, mut rest) = (String::new(), std::str::from_utf8(raw).ok()?);
    while let Some((before, escape)) = rest.split_once('\\') {
        text += before;
        let (character, length) = match escape.as_bytes().first()? {
            b'u' => (char::from_u32(u32::from_str_radix(escape.get(1..5)?, 16).ok()?)?, 5),
            b'/' => ('/', 1),
            _ => return None,
        };
        text.push(character);
        rest = &escape[length..];
    }
    Some(text + rest)
}

fn parse_cid(text: &str) -> Option<Cid> {
    if text.len() == 46 && text.starts_with("Qm") {
        return Cid::try_from(text).ok();
    }
    exact_cid(&multibase::decode(text).ok()?.1)
}

fn is_base64(text: &str) -> bool {
    let digits = text.trim_end_matches('=');
    let padding = text.len() - digits.len();
    let complete = padding == 0 || padding <= 2 && text.len().is_multiple_of(4);
    complete
        && digits.len() % 4 != 1
        && digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(&byte))
}

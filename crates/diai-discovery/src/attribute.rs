use std::{cmp::Ordering, collections::BTreeMap, fmt};

use crate::{RegisterError, capability::is_name_char};

/// What a record says besides capabilities: a price, a region, a language.
pub type Attributes = BTreeMap<String, AttributeValue>;

/// The most attributes of a record.
pub const MAX_ATTRIBUTES: usize = 16;
/// The longest name of an attribute in bytes.
pub const MAX_ATTRIBUTE_NAME_BYTES: usize = 64;
/// The longest text of an attribute in bytes.
pub const MAX_ATTRIBUTE_TEXT_BYTES: usize = 256;

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum AttributeValue {
    /// A text, at most [`MAX_ATTRIBUTE_TEXT_BYTES`] long.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// An exact decimal number, such as a price.
    Decimal(Decimal),
    /// Yes or no.
    Flag(bool),
}

impl From<&str> for AttributeValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for AttributeValue {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<Decimal> for AttributeValue {
    fn from(number: Decimal) -> Self {
        Self::Decimal(number)
    }
}

impl From<bool> for AttributeValue {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

/// An exact decimal number: a mantissa over a power of ten.
///
/// ```
/// use diai_discovery::Decimal;
///
/// let price = Decimal::new(1250, 2).expect("two decimals");
/// assert_eq!(price.to_string(), "12.5");
/// assert!(price < Decimal::new(13, 0).expect("no decimals"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Decimal {
    mantissa: i64,
    scale: u8,
}

impl Decimal {
    /// The most digits after the point.
    pub const MAX_SCALE: u8 = 18;

    /// `mantissa / 10^scale`, in its shortest form; `None` if `scale` is over [`Decimal::MAX_SCALE`].
    pub fn new(mut mantissa: i64, mut scale: u8) -> Option<Self> {
        if scale > Self::MAX_SCALE {
            return None;
        }
        while scale > 0 && mantissa % 10 == 0 {
            mantissa /= 10;
            scale -= 1;
        }
        Some(Self { mantissa, scale })
    }

    /// The digits, without the point.
    pub const fn mantissa(self) -> i64 {
        self.mantissa
    }

    /// How many of them stand after the point.
    pub const fn scale(self) -> u8 {
        self.scale
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        // An i64 times 10^18 fits into an i128.
        let scale = self.scale.max(other.scale);
        let at = |number: &Self| i128::from(number.mantissa) * 10i128.pow(u32::from(scale - number.scale));
        at(self).cmp(&at(other))
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.mantissa < 0 { "-" } else { "" };
        let digits = self.mantissa.unsigned_abs();
        let scale = usize::from(self.scale);
        if scale == 0 {
            return write!(f, "{sign}{digits}");
        }
        let unit = 10u64.pow(u32::from(self.scale));
        write!(f, "{sign}{}.{:0scale$}", digits / unit, digits % unit)
    }
}

/// Whether `name` may name an attribute: `a-z`, `0-9`, `-`, `_` and `.`, 1 to 64 of them.
pub(crate) fn is_attribute_name(name: &str) -> bool {
    (1..=MAX_ATTRIBUTE_NAME_BYTES).contains(&name.len()) && name.chars().all(is_name_char)
}

/// Checks attributes of our own before they are signed.
pub(crate) fn check(attributes: &Attributes) -> Result<(), RegisterError> {
    if attributes.len() > MAX_ATTRIBUTES {
        return Err(RegisterError::TooManyAttributes { count: attributes.len() });
    }
    for (name, value) in attributes {
        if !is_attribute_name(name) {
            return Err(RegisterError::AttributeName { name: name.clone() });
        }
        if let AttributeValue::Text(text) = value
            && text.len() > MAX_ATTRIBUTE_TEXT_BYTES
        {
            return Err(RegisterError::AttributeText { name: name.clone(), bytes: text.len() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(mantissa: i64, scale: u8) -> Decimal {
        Decimal::new(mantissa, scale).unwrap()
    }

    #[test]
    fn decimals_of_one_value_are_equal_however_they_were_written() {
        assert_eq!(decimal(1250, 2), decimal(125, 1));
        assert_eq!(decimal(0, 5), decimal(0, 0));
        assert_eq!(Decimal::new(1, 19), None);
    }

    #[test]
    fn decimals_are_ordered_by_value() {
        assert!(decimal(-5, 1) < decimal(0, 0));
        assert!(decimal(199, 2) < decimal(2, 0));
        assert!(decimal(i64::MAX, 0) > decimal(i64::MAX, 18));
        assert!(decimal(i64::MIN, 0) < decimal(i64::MIN, 18));
    }

    #[test]
    fn decimals_are_written_with_all_their_digits() {
        assert_eq!(decimal(1005, 3).to_string(), "1.005");
        assert_eq!(decimal(-7, 2).to_string(), "-0.07");
        assert_eq!(decimal(i64::MIN, 18).to_string(), "-9.223372036854775808");
        assert_eq!(decimal(40, 0).to_string(), "40");
    }

    #[test]
    fn bad_attributes_are_named() {
        let one = |name: &str, value: AttributeValue| Attributes::from([(name.to_owned(), value)]);
        assert!(check(&one("price.per-hour", decimal(5, 1).into())).is_ok());
        assert!(matches!(check(&one("", true.into())), Err(RegisterError::AttributeName { .. })));
        assert!(matches!(check(&one("Price", 1.into())), Err(RegisterError::AttributeName { .. })));
        let long = "x".repeat(257);
        assert!(matches!(
            check(&one("note", long.as_str().into())),
            Err(RegisterError::AttributeText { bytes: 257, .. })
        ));
        let many = (0..17).map(|number| (format!("a{number}"), true.into())).collect();
        assert!(matches!(check(&many), Err(RegisterError::TooManyAttributes { count: 17 })));
    }
}

//! The market as CSV files: checked before anything runs, cut into parts for the sources.

use super::idea::{CLARITIES, COLORS, CUTS};
use std::fmt;

/// The market that the story brings along.
pub const DEFAULT: &str = include_str!("../data/diamonds.csv");
/// How unequal the three default sources are, in rows.
pub const SHARES: [usize; 3] = [5, 3, 2];

const WANTED: [&str; 5] = ["carat", "cut", "color", "clarity", "price"];
/// Columns that must hold numbers when they are there.
const NUMBERS: [&str; 5] = ["depth", "table", "x", "y", "z"];

/// Why a market file was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarketError {
    /// The file as the user named it.
    pub file: String,
    /// Line, counted from 1.
    pub line: usize,
    /// The column; empty when the line as a whole is wrong.
    pub field: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl fmt::Display for MarketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, line {}: ", self.file, self.line)?;
        if !self.field.is_empty() {
            write!(f, "field `{}`: ", self.field)?;
        }
        f.write_str(&self.problem)
    }
}

impl std::error::Error for MarketError {}

/// A checked market.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Market<'t> {
    header: &'t str,
    rows: Vec<&'t str>,
}

impl<'t> Market<'t> {
    /// Checks the text of `file` (a name for messages only): the columns carat, cut, color, clarity and price in any
    /// order, further ones at will, and every field of every row. Fields hold no commas; quotes around them are optional.
    ///
    /// # Errors
    /// The first field that cannot be used.
    pub fn parse(file: &str, text: &'t str) -> Result<Self, MarketError> {
        let error = |line: usize, field: &str, problem: String| MarketError {
            file: file.to_string(),
            line,
            field: field.to_string(),
            problem,
        };
        let mut lines = text.strip_prefix('\u{feff}').unwrap_or(text).lines();
        let header = lines.next().ok_or_else(|| error(1, "", "the file is empty".to_string()))?;
        let columns: Vec<&str> = fields(header).collect();
        for name in WANTED {
            match columns.iter().filter(|column| **column == name).count() {
                1 => {}
                0 => return Err(error(1, name, "the header has no such column".to_string())),
                n => return Err(error(1, name, format!("the header has this column {n} times"))),
            }
        }
        let mut rows = Vec::new();
        for (number, row) in (2..).zip(lines) {
            if row.trim().is_empty() {
                continue;
            }
            let count = fields(row).count();
            if count != columns.len() {
                return Err(error(number, "", format!("{count} fields where the header has {}", columns.len())));
            }
            for (column, value) in columns.iter().zip(fields(row)) {
                check(column, value).map_err(|problem| error(number, column, problem))?;
            }
            rows.push(row);
        }
        if rows.is_empty() {
            return Err(error(2, "", "there is no row below the header".to_string()));
        }
        Ok(Self { header, rows })
    }

    /// Number of stones.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// The whole market as one CSV text.
    pub fn to_csv(&self) -> String {
        csv(self.header, &self.rows)
    }

    /// Consecutive parts, each with the header, as large as their shares.
    pub fn split(&self, shares: &[usize]) -> Vec<String> {
        let total: usize = shares.iter().sum::<usize>().max(1);
        let mut passed = 0;
        let mut from = 0;
        let mut parts = Vec::with_capacity(shares.len());
        for share in shares {
            passed += share;
            let to = self.rows.len() * passed / total;
            parts.push(csv(self.header, &self.rows[from..to]));
            from = to;
        }
        parts
    }
}

fn csv(header: &str, rows: &[&str]) -> String {
    let mut text = String::with_capacity(rows.iter().map(|row| row.len() + 1).sum::<usize>() + header.len() + 1);
    for line in std::iter::once(&header).chain(rows) {
        text.push_str(line);
        text.push('\n');
    }
    text
}

fn fields(row: &str) -> impl Iterator<Item = &str> {
    row.split(',').map(|field| field.trim().trim_matches('"'))
}

fn check(column: &str, value: &str) -> Result<(), String> {
    match column {
        "carat" => decimal(value, 3),
        "price" => decimal(value, 2),
        "cut" => one_of(value, &CUTS),
        "color" => one_of(value, &COLORS),
        "clarity" => one_of(value, &CLARITIES),
        _ if NUMBERS.contains(&column) => match value.parse::<f64>() {
            Ok(number) if number >= 0.0 && number.is_finite() => Ok(()),
            _ => Err(format!("`{value}` is no number from 0 upwards")),
        },
        _ => Ok(()),
    }
}

fn one_of(value: &str, choices: &[&str]) -> Result<(), String> {
    if choices.contains(&value) { Ok(()) } else { Err(format!("`{value}` is none of {}", choices.join(", "))) }
}

/// What the guest reads: above zero, below a thousand million, so many digits after the point.
fn decimal(value: &str, digits: usize) -> Result<(), String> {
    let (whole, part) = value.split_once('.').unwrap_or((value, ""));
    let plain = !whole.is_empty() && whole.bytes().chain(part.bytes()).all(|byte| byte.is_ascii_digit());
    let above_zero = value.bytes().any(|byte| (b'1'..=b'9').contains(&byte));
    if plain && above_zero && whole.len() <= 9 && part.len() <= digits {
        return Ok(());
    }
    Err(format!("`{value}` is no number above 0 with at most {digits} digits after the point"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str =
        "price,carat,cut,color,clarity,shop\n100,0.3,Ideal,D,IF,a\n\"90.50\",0.31,\"Very Good\",J,I1,b\n";

    #[test]
    fn the_default_market_is_whole_and_splits_into_unequal_parts_that_add_up() {
        let market = Market::parse("diamonds.csv", DEFAULT).unwrap();
        assert_eq!(market.rows(), 53_940);
        let parts = market.split(&SHARES);
        let rows: Vec<usize> = parts.iter().map(|part| Market::parse("part", part).unwrap().rows()).collect();
        assert_eq!(rows, [26_970, 16_182, 10_788]);
        let joined: String =
            parts.iter().enumerate().map(|(i, p)| if i == 0 { p } else { &p[p.find('\n').unwrap() + 1..] }).collect();
        assert_eq!(joined, market.to_csv());
    }

    #[test]
    fn other_columns_orders_and_line_ends_are_welcome() {
        assert_eq!(Market::parse("x", &SMALL.replace('\n', "\r\n")).unwrap().rows(), 2);
        assert_eq!(Market::parse("x", &format!("\u{feff}{SMALL}\n\n")).unwrap().rows(), 2);
    }

    #[test]
    fn every_mistake_names_file_line_and_field() {
        let cases = [
            ("Ideal", "Perfect", "m.csv, line 2: field `cut`: `Perfect` is none of Fair, "),
            ("90.50", "90.505", "m.csv, line 3: field `price`: `90.505` is no number above 0"),
            ("0.31", "-1", "m.csv, line 3: field `carat`: "),
            ("100", "0.00", "line 2: field `price`: "),
            ("100", "1e3", "line 2: field `price`: "),
            (",shop", "", "line 2: 6 fields where the header has 5"),
            (",clarity", "", "line 1: field `clarity`: the header has no such column"),
            ("shop", "carat", "line 1: field `carat`: the header has this column 2 times"),
        ];
        for (from, to, message) in cases {
            let error = Market::parse("m.csv", &SMALL.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(message), "{error}\n{message}");
        }
        assert!(Market::parse("m.csv", "").unwrap_err().to_string().contains("line 1: the file is empty"));
        let empty = Market::parse("m.csv", "price,carat,cut,color,clarity\n").unwrap_err();
        assert_eq!((empty.line, empty.problem.as_str()), (2, "there is no row below the header"));
    }
}

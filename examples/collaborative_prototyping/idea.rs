//! `idea.toml`: what the customer wants. A bad idea is refused with file, line and field.

use std::fmt;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Metals that a ring can be made of.
pub const METALS: [&str; 4] = ["yellow-gold-18k", "white-gold-18k", "rose-gold-18k", "platinum-950"];
/// Cuts from the least to the best.
pub const CUTS: [&str; 5] = ["Fair", "Good", "Very Good", "Premium", "Ideal"];
/// Colours from the least to the best.
pub const COLORS: [&str; 7] = ["J", "I", "H", "G", "F", "E", "D"];
/// Clarities from the least to the best.
pub const CLARITIES: [&str; 8] = ["I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"];
/// Longest idea file that is read, in bytes.
pub const MAX_BYTES: usize = 64 * 1024;

const FIELDS: [(&str, &[&str]); 4] = [
    ("", &["title", "ring", "stone", "budget"]),
    ("ring", &["finger", "finger_us", "band_width_mm", "band_thickness_mm", "metal", "prongs"]),
    ("stone", &["carat", "tolerance", "cut", "color", "clarity"]),
    ("budget", &["usd"]),
];

/// A solitaire ring and its stone, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Idea {
    /// One line for people.
    pub title: String,
    /// Inner circumference in millimetres (ISO 8653), 38 to 76.
    pub finger_mm: f64,
    /// Width of the band in millimetres, 1.2 to 8.
    pub band_width_mm: f64,
    /// Thickness of the band in millimetres, 1 to 3.5.
    pub band_thickness_mm: f64,
    /// One of [`METALS`].
    pub metal: String,
    /// 4 or 6.
    pub prongs: u32,
    /// Weight of the stone in carats, 0.2 to 6.
    pub carat: f64,
    /// Stones this much lighter or heavier still count as wanted, in carats.
    pub tolerance: f64,
    /// One of [`CUTS`].
    pub cut: String,
    /// One of [`COLORS`].
    pub color: String,
    /// One of [`CLARITIES`].
    pub clarity: String,
    /// What the stone may cost, in US dollars.
    pub budget_usd: f64,
}

/// Why an idea was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdeaError {
    /// The file as the user named it.
    pub file: String,
    /// Line, counted from 1.
    pub line: usize,
    /// The field, such as `stone.color`; empty when the file is no TOML there.
    pub field: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl fmt::Display for IdeaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, line {}: ", self.file, self.line)?;
        if !self.field.is_empty() {
            write!(f, "field `{}`: ", self.field)?;
        }
        f.write_str(&self.problem)
    }
}

impl std::error::Error for IdeaError {}

impl Idea {
    /// Reads the text of `file` (a name for messages only).
    ///
    /// # Errors
    /// The first thing that is not TOML, missing, unknown, of the wrong type or out of range.
    pub fn parse(file: &str, text: &str) -> Result<Self, IdeaError> {
        let reader = Reader { file, text };
        if text.len() > MAX_BYTES {
            return Err(reader.error(
                0..0,
                "",
                format!("the file has {} bytes, at most {MAX_BYTES} are read", text.len()),
            ));
        }
        let root = DeTable::parse(text).map_err(|e| {
            let span = e.span().unwrap_or(0..0);
            reader.error(span.clone(), &reader.key_at(span.start), e.message().to_string())
        })?;
        let root = (root.span().start, root.get_ref());
        reader.check_names(root.1, "")?;
        let ring = reader.table(root, "ring")?;
        let stone = reader.table(root, "stone")?;
        let budget = reader.table(root, "budget")?;
        let idea = Self {
            title: reader.title(root)?,
            finger_mm: reader.finger(ring)?,
            band_width_mm: reader.number(ring, "ring.band_width_mm", 1.2, 8.0)?,
            band_thickness_mm: reader.number(ring, "ring.band_thickness_mm", 1.0, 3.5)?,
            metal: reader.choice(ring, "ring.metal", &METALS)?,
            prongs: reader.prongs(ring)?,
            carat: reader.number(stone, "stone.carat", 0.2, 6.0)?,
            tolerance: reader.number(stone, "stone.tolerance", 0.01, 0.5)?,
            cut: reader.choice(stone, "stone.cut", &CUTS)?,
            color: reader.choice(stone, "stone.color", &COLORS)?,
            clarity: reader.choice(stone, "stone.clarity", &CLARITIES)?,
            budget_usd: reader.number(budget, "budget.usd", 100.0, 10_000_000.0)?,
        };
        if idea.tolerance * 3.0 >= idea.carat {
            let problem =
                format!("{} is too wide for a stone of {} ct: at most a third of it", idea.tolerance, idea.carat);
            let span = stone.1.get("tolerance").map_or(0..0, Spanned::span);
            return Err(reader.error(span, "stone.tolerance", problem));
        }
        Ok(idea)
    }

    /// The one text for this idea, whatever the order and the comments of its file: it is signed, stored, and the
    /// ring guest's standard input.
    pub fn canonical(&self) -> String {
        format!(
            "diai-idea 1\ntitle={}\nfinger_mm={:.2}\nband_width_mm={:.2}\nband_thickness_mm={:.2}\nmetal={}\nprongs={}\n\
             carat={:.2}\ntolerance={:.2}\ncut={}\ncolor={}\nclarity={}\nbudget_usd={:.2}\n",
            self.title,
            self.finger_mm,
            self.band_width_mm,
            self.band_thickness_mm,
            self.metal,
            self.prongs,
            self.carat,
            self.tolerance,
            self.cut,
            self.color,
            self.clarity,
            self.budget_usd,
        )
    }

    /// The arguments of the market guest (without the program's name).
    pub fn market_args(&self) -> Vec<String> {
        let pairs = [
            ("--carat", format!("{:.2}", self.carat)),
            ("--tolerance", format!("{:.2}", self.tolerance)),
            ("--cut", self.cut.clone()),
            ("--color", self.color.clone()),
            ("--clarity", self.clarity.clone()),
            ("--budget", format!("{:.2}", self.budget_usd)),
        ];
        pairs.into_iter().flat_map(|(name, value)| [name.to_string(), value]).collect()
    }

    /// Labels and values for the report.
    pub fn facts(&self) -> Vec<(String, String)> {
        let inner = self.finger_mm / std::f64::consts::PI;
        let pair = |label: &str, value: String| (label.to_string(), value);
        vec![
            pair("Finger", format!("ISO {:.1} ({inner:.1} mm inside)", self.finger_mm)),
            pair("Band", format!("{:.1} × {:.1} mm", self.band_width_mm, self.band_thickness_mm)),
            pair("Metal", self.metal.replace('-', " ")),
            pair("Setting", format!("{} prongs", self.prongs)),
            pair("Stone", format!("{:.2} ct round brilliant (±{:.2})", self.carat, self.tolerance)),
            pair("Cut, colour, clarity", format!("{}, {}, {}", self.cut, self.color, self.clarity)),
            pair("Budget for the stone", format!("${:.0}", self.budget_usd)),
        ]
    }
}

/// Where a table begins, and the table.
type Table<'a, 'i> = (usize, &'a DeTable<'i>);

/// Knows the text, so that every complaint finds its line.
struct Reader<'t> {
    file: &'t str,
    text: &'t str,
}

impl Reader<'_> {
    fn error(&self, span: Range<usize>, field: &str, problem: String) -> IdeaError {
        let before = self.text.as_bytes().get(..span.start).unwrap_or(self.text.as_bytes());
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        IdeaError { file: self.file.to_string(), line, field: field.to_string(), problem: problem.trim().to_string() }
    }

    /// The key of the line at a place where TOML broke off, in its table.
    fn key_at(&self, place: usize) -> String {
        let mut table = String::new();
        let mut passed = 0;
        for line in self.text.split_inclusive('\n') {
            passed += line.len();
            let header = line.trim().strip_prefix('[').and_then(|rest| rest.split(']').next());
            if let Some(name) = header {
                table = format!("{}.", name.trim());
            }
            if passed > place {
                return line.split_once('=').map(|(key, _)| format!("{table}{}", key.trim())).unwrap_or_default();
            }
        }
        String::new()
    }

    fn check_names(&self, table: &DeTable<'_>, name: &str) -> Result<(), IdeaError> {
        let known = FIELDS.iter().find(|(table, _)| *table == name).map_or(&[][..], |(_, fields)| fields);
        for key in table.keys() {
            if !known.contains(&key.get_ref().as_ref()) {
                let field =
                    if name.is_empty() { key.get_ref().to_string() } else { format!("{name}.{}", key.get_ref()) };
                return Err(self.error(key.span(), &field, format!("unknown; known are {}", known.join(", "))));
            }
        }
        Ok(())
    }

    fn table<'a, 'i>(&self, root: Table<'a, 'i>, name: &str) -> Result<Table<'a, 'i>, IdeaError> {
        let value = self.value(root, name)?;
        match value.get_ref() {
            DeValue::Table(table) => {
                self.check_names(table, name)?;
                Ok((value.span().start, table))
            }
            other => {
                Err(self.error(value.span(), name, format!("expected a table [{name}], found {}", other.type_str())))
            }
        }
    }

    fn value<'a, 'i>(&self, (start, table): Table<'a, 'i>, field: &str) -> Result<&'a Spanned<DeValue<'i>>, IdeaError> {
        let key = field.rsplit('.').next().unwrap_or(field);
        table.get(key).ok_or_else(|| self.error(start..start, field, "is missing".to_string()))
    }

    fn number(&self, table: Table<'_, '_>, field: &str, low: f64, high: f64) -> Result<f64, IdeaError> {
        let value = self.value(table, field)?;
        let text = match value.get_ref() {
            DeValue::Integer(integer) => integer.as_str(),
            DeValue::Float(float) => float.as_str(),
            other => {
                let problem = format!("expected a number from {low} to {high}, found {}", other.type_str());
                return Err(self.error(value.span(), field, problem));
            }
        };
        match text.parse::<f64>() {
            Ok(number) if (low..=high).contains(&number) => Ok((number * 100.0).round() / 100.0),
            _ => Err(self.error(value.span(), field, format!("{text} is out of range: {low} to {high}"))),
        }
    }

    fn string<'a>(&self, table: Table<'a, '_>, field: &str) -> Result<(Range<usize>, &'a str), IdeaError> {
        let value = self.value(table, field)?;
        match value.get_ref() {
            DeValue::String(text) => Ok((value.span(), text.as_ref())),
            other => {
                Err(self.error(value.span(), field, format!("expected a text in quotes, found {}", other.type_str())))
            }
        }
    }

    fn choice(&self, table: Table<'_, '_>, field: &str, choices: &[&str]) -> Result<String, IdeaError> {
        let (span, text) = self.string(table, field)?;
        if choices.contains(&text) {
            return Ok(text.to_string());
        }
        Err(self.error(span, field, format!("`{text}` is none of {}", choices.join(", "))))
    }

    fn title(&self, root: Table<'_, '_>) -> Result<String, IdeaError> {
        let (span, text) = self.string(root, "title")?;
        if text.trim().is_empty() || text.chars().count() > 80 || text.chars().any(char::is_control) {
            return Err(self.error(span, "title", "expected one line of 1 to 80 characters".to_string()));
        }
        Ok(text.trim().to_string())
    }

    fn prongs(&self, ring: Table<'_, '_>) -> Result<u32, IdeaError> {
        match self.number(ring, "ring.prongs", 4.0, 6.0)? {
            4.0 => Ok(4),
            6.0 => Ok(6),
            other => {
                let span = self.value(ring, "ring.prongs")?.span();
                Err(self.error(span, "ring.prongs", format!("{other} prongs; expected 4 or 6")))
            }
        }
    }

    /// A US size of 0 has an inner diameter of 11.63 mm, each further size 0.8128 mm more.
    fn finger(&self, ring: Table<'_, '_>) -> Result<f64, IdeaError> {
        match (ring.1.get("finger"), ring.1.get("finger_us")) {
            (Some(_), Some(us)) => {
                Err(self.error(us.span(), "ring.finger_us", "`ring.finger` is given too; keep one of them".to_string()))
            }
            (None, Some(_)) => {
                let size = self.number(ring, "ring.finger_us", 1.0, 15.0)?;
                Ok(((11.63 + 0.8128 * size) * std::f64::consts::PI * 100.0).round() / 100.0)
            }
            _ => self.number(ring, "ring.finger", 38.0, 76.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: &str = include_str!("idea.toml");

    fn refused(text: &str) -> String {
        Idea::parse("my.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn the_default_idea_is_read_and_its_canonical_text_ignores_order_and_comments() {
        let idea = Idea::parse("idea.toml", DEFAULT).unwrap();
        assert_eq!((idea.finger_mm, idea.carat, idea.prongs), (54.0, 0.7, 6));
        let mut tables: Vec<&str> = DEFAULT.split("\n[").collect();
        tables[1..].reverse();
        let shuffled = tables.join("\n[").replace("# for the stone", "");
        assert_eq!(Idea::parse("x", &shuffled).unwrap().canonical(), idea.canonical());
    }

    #[test]
    fn a_us_size_becomes_a_circumference() {
        let text = DEFAULT.replace("finger = 54.0", "finger_us = 7");
        assert_eq!(Idea::parse("x", &text).unwrap().finger_mm, 54.41);
    }

    #[test]
    fn every_mistake_names_file_line_and_field() {
        let cases = [
            ("color = \"G\"", "color = \"Z\"", "my.toml, line 16: field `stone.color`: `Z` is none of"),
            ("carat = 0.70", "carat = 70", "my.toml, line 13: field `stone.carat`: 70 is out of range: 0.2 to 6"),
            ("carat = 0.70", "carat = nan", "line 13: field `stone.carat`: nan is out of range"),
            ("carat = 0.70", "carat = \"big\"", "line 13: field `stone.carat`: expected a number"),
            ("cut = \"Ideal\"", "cutt = \"Ideal\"", "line 15: field `stone.cutt`: unknown; known are carat"),
            ("cut = \"Ideal\"", "", "line 12: field `stone.cut`: is missing"),
            ("prongs = 6", "prongs = 5", "line 10: field `ring.prongs`: 5 prongs; expected 4 or 6"),
            ("usd = 3000", "usd = ", "line 20: field `budget.usd`: "),
            ("title = \"Solitaire ring\"", "title = \"a\\nb\"", "line 3: field `title`: expected one line"),
            ("tolerance = 0.05", "tolerance = 0.3", "line 14: field `stone.tolerance`: 0.3 is too wide"),
        ];
        for (from, to, message) in cases {
            let error = refused(&DEFAULT.replacen(from, to, 1));
            assert!(error.contains(message), "{error}\n{message}");
        }
    }

    #[test]
    fn a_missing_table_and_a_huge_file_are_refused() {
        let error = refused(DEFAULT.split("[budget]").next().unwrap());
        assert!(error.contains("field `budget`: is missing"), "{error}");
        assert!(refused(&"#".repeat(MAX_BYTES + 1)).contains("at most 65536"));
    }
}

//! Stones and the wish for one: grades, weights in milli-carats, prices in cents; no floating point anywhere.

#![allow(dead_code)] // Map and reduce each use their half.

/// Each scale from the least to the best grade.
pub const CUTS: [&str; 5] = ["Fair", "Good", "Very Good", "Premium", "Ideal"];
pub const COLORS: [&str; 7] = ["J", "I", "H", "G", "F", "E", "D"];
pub const CLARITIES: [&str; 8] = ["I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"];

/// What the customer wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    pub carat: i64,
    pub tolerance: i64,
    pub cut: usize,
    pub color: usize,
    pub clarity: usize,
    pub budget: i64,
}

impl Wish {
    /// From `--carat 0.70 --cut Ideal --color G --clarity VS1 --budget 3000 --tolerance 0.05`, in any order.
    pub fn from_args(args: &[String]) -> Result<Wish, String> {
        let find = |name: &str| {
            let place = args.iter().position(|a| a == name).ok_or_else(|| format!("argument {name} is missing"))?;
            args.get(place + 1).map(String::as_str).ok_or_else(|| format!("{name} needs a value"))
        };
        let wish = Wish {
            carat: thousandths(find("--carat")?).ok_or("--carat is no weight")?,
            tolerance: thousandths(find("--tolerance")?).ok_or("--tolerance is no weight")?,
            cut: grade(&CUTS, find("--cut")?).ok_or("--cut is unknown")?,
            color: grade(&COLORS, find("--color")?).ok_or("--color is unknown")?,
            clarity: grade(&CLARITIES, find("--clarity")?).ok_or("--clarity is unknown")?,
            budget: cents(find("--budget")?).ok_or("--budget is no price")?,
        };
        if wish.tolerance <= 0 || wish.carat <= wish.tolerance {
            return Err("--tolerance must be above 0 and below --carat".into());
        }
        Ok(wish)
    }

    /// One line that `from_line` reads back.
    pub fn to_line(self) -> String {
        let Wish { carat, tolerance, cut, color, clarity, budget } = self;
        format!("want {carat} {tolerance} {cut} {color} {clarity} {budget}")
    }

    pub fn from_line(line: &str) -> Option<Wish> {
        let mut numbers = line.strip_prefix("want ")?.split(' ').map(|n| n.parse::<i64>().ok().filter(|n| *n >= 0));
        let mut next = || numbers.next().flatten();
        let (carat, tolerance, cut, color, clarity, budget) = (next()?, next()?, next()?, next()?, next()?, next()?);
        let (cut, color, clarity) = (cut as usize, color as usize, clarity as usize);
        let known = cut < CUTS.len() && color < COLORS.len() && clarity < CLARITIES.len();
        known.then(|| Wish { carat, tolerance, cut, color, clarity, budget })
    }

    /// `0.70 ct, Ideal, G, VS1`
    pub fn describe(self) -> String {
        describe(self.carat, self.cut, self.color, self.clarity)
    }
}

/// One row of the market.
#[derive(Clone, Copy, Debug)]
pub struct Stone {
    pub carat: i64,
    pub cut: usize,
    pub color: usize,
    pub clarity: usize,
    pub price: i64,
}

impl Stone {
    /// `carat cut color clarity price`, in numbers.
    pub fn to_line(self) -> String {
        format!("{} {} {} {} {}", self.carat, self.cut, self.color, self.clarity, self.price)
    }

    pub fn from_line(line: &str) -> Option<Stone> {
        let mut numbers = line.split(' ').map(|n| n.parse::<i64>().ok().filter(|n| *n >= 0));
        let mut next = || numbers.next().flatten();
        let (carat, cut, color, clarity, price) = (next()?, next()?, next()?, next()?, next()?);
        let (cut, color, clarity) = (cut as usize, color as usize, clarity as usize);
        let known = cut < CUTS.len() && color < COLORS.len() && clarity < CLARITIES.len();
        known.then(|| Stone { carat, cut, color, clarity, price })
    }

    pub fn describe(self) -> String {
        describe(self.carat, self.cut, self.color, self.clarity)
    }
}

fn describe(carat: i64, cut: usize, color: usize, clarity: usize) -> String {
    format!("{} ct, {}, {}, {}", weight(carat), CUTS[cut], COLORS[color], CLARITIES[clarity])
}

/// Where the columns that matter stand in a CSV header.
pub struct Columns([usize; 5]);

impl Columns {
    pub fn find(header: &str) -> Result<Columns, String> {
        let names: Vec<&str> = fields(header).collect();
        let mut places = [0; 5];
        for (place, name) in places.iter_mut().zip(["carat", "cut", "color", "clarity", "price"]) {
            *place = names.iter().position(|n| *n == name).ok_or_else(|| format!("no column `{name}` in the header"))?;
        }
        Ok(Columns(places))
    }

    /// `None` when a field is missing or makes no sense.
    pub fn read(&self, row: &str) -> Option<Stone> {
        let fields: Vec<&str> = fields(row).collect();
        let at = |k: usize| fields.get(self.0[k]).copied();
        Some(Stone {
            carat: thousandths(at(0)?).filter(|c| *c > 0)?,
            cut: grade(&CUTS, at(1)?)?,
            color: grade(&COLORS, at(2)?)?,
            clarity: grade(&CLARITIES, at(3)?)?,
            price: cents(at(4)?).filter(|p| *p > 0)?,
        })
    }
}

/// Grades hold no commas, so quotes are only decoration.
fn fields(row: &str) -> impl Iterator<Item = &str> {
    row.trim_end_matches('\r').split(',').map(|f| f.trim().trim_matches('"'))
}

fn grade(scale: &[&str], name: &str) -> Option<usize> {
    scale.iter().position(|grade| *grade == name)
}

/// A decimal number with at most `digits` digits after the point, as an integer of that unit.
fn fixed(text: &str, digits: usize) -> Option<i64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let plain = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || whole.len() > 9 || part.len() > digits || !plain(whole) || !plain(part) {
        return None;
    }
    format!("{whole}{part:0<digits$}").parse().ok()
}

fn thousandths(text: &str) -> Option<i64> {
    fixed(text, 3)
}

fn cents(text: &str) -> Option<i64> {
    fixed(text, 2)
}

/// `0.70`, or `0.705` where the third digit counts.
pub fn weight(carat: i64) -> String {
    if carat % 10 == 0 {
        format!("{}.{:02}", carat / 1000, carat % 1000 / 10)
    } else {
        format!("{}.{:03}", carat / 1000, carat % 1000)
    }
}

/// `$2,757`, with cents where there are any.
pub fn money(cents: i64) -> String {
    let digits = (cents.abs() / 100).to_string();
    let mut text = String::from(if cents < 0 { "-$" } else { "$" });
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if cents % 100 != 0 {
        text.push_str(&format!(".{:02}", cents.abs() % 100));
    }
    text
}

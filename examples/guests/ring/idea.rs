//! What is to be made: the `key=value` lines of an idea, checked once more, since a guest trusts nobody.

/// The metals, with the density of the usual alloy in g/cm3 and the colour of polished metal (linear RGB).
pub struct Metal {
    pub name: &'static str,
    pub density: f64,
    pub color: [f64; 3],
}

const METALS: [Metal; 4] = [
    Metal { name: "yellow-gold-18k", density: 15.5, color: [1.0, 0.705, 0.29] },
    Metal { name: "white-gold-18k", density: 15.6, color: [0.86, 0.845, 0.81] },
    Metal { name: "rose-gold-18k", density: 15.1, color: [0.98, 0.66, 0.52] },
    Metal { name: "platinum-950", density: 20.7, color: [0.80, 0.80, 0.79] },
];

/// The measures of one solitaire ring, in millimetres.
pub struct Idea {
    pub inner_radius: f64,
    pub band_width: f64,
    pub band_thickness: f64,
    pub metal: &'static Metal,
    pub prongs: usize,
    pub carat: f64,
}

impl Idea {
    /// Reads the text; the error is a sentence.
    pub fn parse(text: &str) -> Result<Idea, String> {
        let mut lines = text.lines();
        if lines.next() != Some("diai-idea 1") {
            return Err("the input does not begin with `diai-idea 1`".into());
        }
        let mut fields = Vec::new();
        for line in lines {
            match line.split_once('=') {
                Some(field) => fields.push(field),
                None => return Err(format!("`{line}` is not key=value")),
            }
        }
        let name = text_of(&fields, "metal")?;
        let metal = METALS.iter().find(|metal| metal.name == name).ok_or(format!("metal `{name}` is unknown"))?;
        let prongs = number(&fields, "prongs", 4.0, 6.0)? as usize;
        if prongs == 5 {
            return Err("`prongs` must be 4 or 6".into());
        }
        Ok(Idea {
            inner_radius: number(&fields, "finger_mm", 38.0, 76.0)? / std::f64::consts::TAU,
            band_width: number(&fields, "band_width_mm", 1.2, 8.0)?,
            band_thickness: number(&fields, "band_thickness_mm", 1.0, 3.5)?,
            metal,
            prongs,
            carat: number(&fields, "carat", 0.2, 6.0)?,
        })
    }

    /// Girdle diameter of a round brilliant of this weight: one carat measures 6.5 mm.
    pub fn stone_diameter(&self) -> f64 {
        6.5 * self.carat.cbrt()
    }
}

fn text_of<'a>(fields: &[(&'a str, &'a str)], key: &str) -> Result<&'a str, String> {
    let field = fields.iter().find(|field| field.0 == key);
    field.map(|field| field.1).ok_or_else(|| format!("`{key}` is missing"))
}

fn number(fields: &[(&str, &str)], key: &str, low: f64, high: f64) -> Result<f64, String> {
    let text = text_of(fields, key)?;
    match text.parse::<f64>() {
        Ok(value) if (low..=high).contains(&value) => Ok(value),
        _ => Err(format!("`{key}` is `{text}`, which cannot be made")),
    }
}

//! The tasks: one announces this device, one exchanges records with connected devices, one answers those who ask, one
//! drops what expired and writes to disk.

pub(crate) mod announce;
pub(crate) mod answer;
pub(crate) mod peers;
pub(crate) mod upkeep;

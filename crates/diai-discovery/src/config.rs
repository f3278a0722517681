use std::time::Duration;

/// How discovery works. The defaults suit an agent on a laptop.
///
/// Worst-case memory with the defaults: 10,000 records of 2 KiB and their index entries, about 40 MiB; an agent that
/// knows twenty others holds some 100 KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How long a record of this device holds; it is signed and placed anew after a quarter of it. At most 5 h.
    /// Default 2 h, so that clocks may differ by an hour and a device that died is forgotten in two.
    pub record_lifetime: Duration,
    /// How often the device's own addresses are looked at. Default 2 s.
    pub address_poll: Duration,
    /// Provider entries and records being placed at a time. Default 8.
    pub max_placements: usize,
    /// Wait before the first retry of what could not be placed; doubles up to [`Config::max_backoff`]. Default 1 s.
    pub min_backoff: Duration,
    /// The longest wait between retries. Default 5 min.
    pub max_backoff: Duration,
    /// Records in the local index; the one that expires first goes when one more comes. Default 10,000 (at most 2 KiB
    /// each, twice that with the index entries).
    pub max_records: usize,
    /// Records in the local index of one agent's devices. Default 16.
    pub max_records_per_agent: usize,
    /// An index entry of a device that is not connected is answered with unasked for so long after the device or the
    /// DHT last confirmed it. Connected devices send each new record by themselves. Default 60 s.
    pub max_age: Duration,
    /// Devices that are not connected whose records are being fetched at a time, by all lookups together. Default 32 (a
    /// stream and 2 KiB each).
    pub max_fetches: usize,
    /// Providers looked at in one lookup; further ones are left out. Default 1,024.
    pub max_candidates: usize,
    /// Time for one record to come, from its device or from the DHT. Default 5 s.
    pub fetch_timeout: Duration,
    /// Devices that are being answered at a time. Default 64 (a stream and 2 KiB each).
    pub max_serving: usize,
    /// Questions that one device may ask in a row; then [`Config::questions_per_second`]. More is flooding. Default 32.
    pub question_burst: u32,
    /// Questions that one device may ask per second for ever. Default 4.
    pub questions_per_second: u32,
    /// Events that a slow subscriber may lag behind before it misses some. Default 256.
    pub event_capacity: usize,
    /// How often changes of the index go to disk; after a crash what came since is learned anew. Default 5 s.
    pub flush_interval: Duration,
    /// Cache of the index database in bytes. Default 256 KiB.
    pub database_cache_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            record_lifetime: Duration::from_secs(2 * 60 * 60),
            address_poll: Duration::from_secs(2),
            max_placements: 8,
            min_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(5 * 60),
            max_records: 10_000,
            max_records_per_agent: 16,
            max_age: Duration::from_secs(60),
            max_fetches: 32,
            max_candidates: 1024,
            fetch_timeout: Duration::from_secs(5),
            max_serving: 64,
            question_burst: 32,
            questions_per_second: 4,
            event_capacity: 256,
            flush_interval: Duration::from_secs(5),
            database_cache_bytes: 256 * 1024,
        }
    }
}

/// What to look for and how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FindOptions {
    /// When the lookup ends at the latest. Default 10 s.
    pub within: Duration,
    /// Devices to find; the lookup ends with the last. Default 64.
    pub limit: usize,
    /// The DHT is not asked when the local index has so many answers that are fresh. Default: it is asked unless
    /// [`FindOptions::limit`] is reached.
    pub enough: usize,
    /// Answer with this device too, if it offers the capability. Default no.
    pub include_self: bool,
}

impl Default for FindOptions {
    fn default() -> Self {
        Self { within: Duration::from_secs(10), limit: 64, enough: usize::MAX, include_self: false }
    }
}

impl FindOptions {
    /// The default with another deadline.
    pub fn within(within: Duration) -> Self {
        Self { within, ..Self::default() }
    }

    /// The same, but it ends with the `limit`th device.
    pub fn limit(self, limit: usize) -> Self {
        Self { limit, ..self }
    }

    /// The same, but the DHT is left alone when the local index has `enough` fresh answers.
    pub fn enough(self, enough: usize) -> Self {
        Self { enough, ..self }
    }

    /// The same, but this device may be among the answers.
    pub fn include_self(self) -> Self {
        Self { include_self: true, ..self }
    }
}

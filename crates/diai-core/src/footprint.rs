/// What a value holds in memory, so that a test can assert the caps that a configuration promises.
pub trait Footprint {
    /// Bytes held on the heap on behalf of others (peers, callers), approximately: payloads counted exactly,
    /// containers by their entries.
    fn footprint_bytes(&self) -> usize;
}

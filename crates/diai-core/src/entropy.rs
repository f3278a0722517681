/// Random bytes: the operating system's in production, a seeded stream in simulation.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `buffer` with bytes fit for keys.
    fn fill(&self, buffer: &mut [u8]);
}

impl dyn Entropy {
    /// `N` random bytes.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }

    /// A random number.
    pub fn u64(&self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    /// A random number below `bound`, or zero when `bound` is zero. The bias is below one in 2^32 for bounds below
    /// 2^32: good for choices, not for keys.
    pub fn below(&self, bound: u64) -> u64 {
        self.u64().checked_rem(bound).unwrap_or(0)
    }
}

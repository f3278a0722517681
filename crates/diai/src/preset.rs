use diai_net::Config;

/// Where an agent lives: the starting point of its network configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preset {
    /// Loopback only, any port: several agents on one machine.
    Test,
    /// All interfaces of a local network, with multicast DNS.
    #[default]
    Lan,
    /// The internet: serves the DHT once an address was confirmed from outside.
    Internet,
}

impl Preset {
    /// The network configuration that the preset stands for.
    pub fn config(self) -> Config {
        match self {
            Self::Test => Config::test(),
            Self::Lan => Config::lan(),
            Self::Internet => Config::internet(),
        }
    }
}

/// Why an agent did not start. Nothing is left running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No data folder was named.
    #[error("an agent needs a data folder: call data_dir on its builder")]
    NoDataDir,
    /// The data folder cannot be used.
    #[error("cannot use the data folder {path}: {source}")]
    DataDir {
        /// The folder.
        path: String,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A capability is none.
    #[error("{text:?} is no capability: {source}")]
    Capability {
        /// What was given.
        text: String,
        /// Why not.
        source: diai_discovery::ParseCapabilityError,
    },
    /// The key file, its passphrase, or the lock of the data folder.
    #[error(transparent)]
    KeyFile(#[from] diai_identity::key_file::KeyFileError),
    /// The thread that opened the key file ended early.
    #[error("the key file could not be opened: its thread ended early")]
    KeyFileTask,
    /// The network.
    #[cfg(feature = "libp2p")]
    #[error("cannot start the network: {0}")]
    Network(#[from] diai_net::StartError),
    /// Messaging.
    #[error("cannot start messaging: {0}")]
    Messaging(#[from] diai_messaging::StartError),
    /// Discovery.
    #[error("cannot start discovery: {0}")]
    Discovery(#[from] diai_discovery::StartError),
    /// Blocks.
    #[error("cannot start the block store: {0}")]
    Blocks(#[source] Box<diai_blocks::StartError>),
    /// Tasks.
    #[error("cannot start tasks: {0}")]
    Tasks(#[from] diai_tasks::StartError),
    /// A service name is taken or not allowed.
    #[error(transparent)]
    Service(#[from] diai_core::RegisterError),
    /// What the agent wants to register is not allowed.
    #[error("cannot register the agent's capabilities: {0}")]
    Register(#[from] diai_discovery::RegisterError),
}

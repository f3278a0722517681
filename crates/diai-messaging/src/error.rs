use diai_core::AcceptError;

/// Why messaging cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration contradicts itself.
    #[error("the messaging configuration is not valid: {0}")]
    Config(&'static str),
    /// The identity is that of another device.
    #[error("the identity is of device {identity}, the network of {network}; start both with the same key")]
    OtherDevice {
        /// The identity's device.
        identity: String,
        /// The network's.
        network: String,
    },
    /// The session protocol cannot be accepted.
    #[error("cannot accept sessions: {0}")]
    Accept(#[from] AcceptError),
}

//! The way to the World Wide Web. The World's network has peers only, so gateways have two small ports of their own; what is
//! here is the operating system behind them.

use std::{fmt, io, net::SocketAddr};

use diai_core::BoxFuture;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};

/// A connection.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Connection for T {}

/// Whoever can reach a gateway.
pub trait Dial: fmt::Debug + Send + Sync + 'static {
    /// A connection to `port` of `host`, a name or an address. Dropping the future gives it up.
    fn dial(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<Box<dyn Connection>>>;
}

/// Where a gateway is reached.
pub trait Listen: fmt::Debug + Send + Sync + 'static {
    /// The next connection. Dropping the future loses none.
    fn accept(&self) -> BoxFuture<'_, io::Result<Box<dyn Connection>>>;

    /// Where that is.
    fn addr(&self) -> SocketAddr;
}

/// TCP, and names as the operating system resolves them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tcp;

impl Tcp {
    /// Listens on `addr`.
    pub async fn listen(self, addr: SocketAddr) -> io::Result<impl Listen> {
        TcpListener::bind(addr).await.and_then(|listener| Ok(Listener { addr: listener.local_addr()?, listener }))
    }
}

impl Dial for Tcp {
    fn dial(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> {
        Box::pin(async move {
            // An address of version 6 stands in brackets in a URL.
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let stream = TcpStream::connect((host, port)).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        })
    }
}

#[derive(Debug)]
struct Listener {
    listener: TcpListener,
    addr: SocketAddr,
}

impl Listen for Listener {
    fn accept(&self) -> BoxFuture<'_, io::Result<Box<dyn Connection>>> {
        Box::pin(async move {
            let (stream, _) = self.listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        })
    }

    fn addr(&self) -> SocketAddr {
        self.addr
    }
}

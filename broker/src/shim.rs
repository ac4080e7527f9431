//! Stands in for the broker until the library has it: opens the listeners, and nothing answers on them.

use std::net::SocketAddr;

use leveret::Config;
use tokio::net::TcpListener;

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address}: {source}")]
    Listen {
        address: SocketAddr,
        source: std::io::Error,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum BrokerError {}

pub struct Broker {
    _listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
}

impl Broker {
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let (mut listeners, mut addresses) = (Vec::new(), Vec::new());
        for address in config.listen {
            let failed = |source| StartError::Listen { address, source };
            let listener = TcpListener::bind(address).await.map_err(failed)?;
            addresses.push(listener.local_addr().map_err(failed)?);
            listeners.push(listener);
        }
        Ok(Self {
            _listeners: listeners,
            addresses,
        })
    }

    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub async fn shutdown(self) -> Result<(), BrokerError> {
        Ok(())
    }

    pub async fn failed(&self) -> BrokerError {
        std::future::pending().await
    }
}

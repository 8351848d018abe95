//! What `make bench` compares with: poem's hello world, behind the service's own accept loop and with its allocator.

use std::{future::pending, sync::Arc, time::Duration};

use mayfly::server::{Serving, serve};
use poem::{EndpointExt, IntoResponse, endpoint::make_sync};
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let hello = make_sync(|_| "hello".into_response()).map_to_response();
    let serving = Serving {
        certificate: None,
        max_connections: 1_000,
        network: Arc::new(|_| None),
        refuse: Arc::new(mayfly::http::refuse),
        grace: Duration::ZERO,
    };
    serve(listener, hello, pending(), || false, serving).await
}

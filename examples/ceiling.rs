//! The reference of `make bench`: poem's hello world, with the accept loop and the allocator of the service.

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

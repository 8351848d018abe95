//! What `make bench` compares with: poem's hello world, behind the service's own accept loop and with its allocator.

use std::{future::pending, time::Duration};

use poem::{EndpointExt, IntoResponse, endpoint::make_sync};
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let hello = make_sync(|_| "hello".into_response()).map_to_response();
    mayfly::http::server::serve(listener, hello, pending(), || false, Duration::ZERO).await
}

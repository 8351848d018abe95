//! The reference of `make bench`: poem's hello world, with the accept loop and the allocator of the service.

use std::{future::pending, sync::Arc, time::Duration};

use mayfly::{
    http::Application,
    server::{Options, serve},
};
use poem::{EndpointExt, IntoResponse, endpoint::make_sync};
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let hello = make_sync(|_| "hello".into_response()).map_to_response();
    let application = Application::new(hello, Arc::default());
    let options = Options {
        certificate: None,
        max_connections: 1_000,
        shutdown_delay: Duration::ZERO,
        shutdown_grace: Duration::ZERO,
    };
    serve(listener, application, pending(), options).await
}

//! A database of its own for every service under test.

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection};
use std::str::FromStr as _;

/// The URL of a new, empty database. It goes with its server, which is thrown away after the tests.
pub async fn fresh_database() -> String {
    let url = std::env::var("DATABASE_URL").expect("DATABASE_URL: `make test` starts a Postgres and sets it");
    let name = format!("api_{}", uuid::Uuid::now_v7().simple());
    let mut admin = PgConnection::connect(&url).await.expect("the Postgres of DATABASE_URL");
    admin.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.expect("a new database");
    admin.close().await.expect("a connection that closes");
    let options = PgConnectOptions::from_str(&url).expect("a Postgres URL").database(&name);
    options.to_url_lossy().to_string()
}

/// Keeps everybody from reading or writing leases until it is dropped: whoever needs them waits in the database.
pub async fn hold_leases(url: &str) -> PgConnection {
    let mut connection = PgConnection::connect(url).await.expect("the service's database");
    let held = connection.execute("BEGIN; LOCK TABLE leases IN ACCESS EXCLUSIVE MODE").await;
    held.expect("the lock");
    connection
}

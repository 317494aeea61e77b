//! A connection for long readings that nobody waits for: the server's part of it stands back too.
//!
//! A plan of a million samples has the server read for ten seconds at the side of annotators' own queries. Where that server
//! runs on this machine, the process that reads for this connection lets whoever wakes have its core. Invariant: only a
//! process that is known to be this connection's own is touched; it ends with the reading, as one that stood back once
//! could not come forward again. Deliberately absent: servers elsewhere, and in containers of their own, whose
//! processes are not seen from here: there the reading is like any other.

use super::Store;
use crate::{domain::Result, priority};
use sqlx::{Postgres, pool::PoolConnection};
use std::sync::Once;

impl Store {
    /// A connection whose server process stands back, as far as it can be reached; closed after use.
    pub(super) async fn aside(&self) -> Result<PoolConnection<Postgres>> {
        let mut connection = self.pool.acquire().await?;
        let own = sqlx::query!(
            r#"SELECT pg_backend_pid() AS "pid!", current_database()::text AS "database!", inet_client_port() AS port"#
        )
        .fetch_one(&mut *connection)
        .await?;
        let stood = is_ours(own.pid, &own.database, own.port).and_then(|()| {
            priority::stand_back_process(own.pid, priority::BEHIND).map_err(|error| error.to_string())
        });
        match stood {
            Ok(()) => connection.close_on_drop(),
            Err(why) => told_once(&why),
        }
        Ok(connection)
    }
}

/// Whether a process of this machine is the server's end of our connection, by the title that the server gives it:
/// `postgres: user database [local] SELECT`, or `address(port)` in place of `[local]`.
fn is_ours(pid: i32, database: &str, port: Option<i32>) -> std::result::Result<(), String> {
    let title = std::fs::read(format!("/proc/{pid}/cmdline"))
        .map_err(|error| format!("its process {pid} is not on this machine, or not to be seen ({error})"))?;
    let title = String::from_utf8_lossy(&title);
    let end = port.map_or("[local]".to_owned(), |port| format!("({port})"));
    let fits =
        title.starts_with("postgres: ") && title.contains(&format!(" {database} ")) && title.contains(&end);
    fits.then_some(()).ok_or_else(|| format!("process {pid} of this machine is another one"))
}

fn told_once(why: &str) {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        tracing::info!(why, "the database server's part of planning does not stand back for annotators");
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use sqlx::PgPool;

    #[test]
    fn another_process_is_not_taken_for_the_server() {
        let own = std::process::id() as i32;
        assert!(is_ours(own, "active", None).unwrap_err().contains("another one"));
        assert!(is_ours(i32::MAX, "active", None).unwrap_err().contains("not on this machine"));
    }

    #[sqlx::test]
    async fn the_server_process_stands_back_and_ends_with_the_reading(db: PgPool) {
        let store = Store::from_pool(db.clone());
        let nice = |pid: i32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name in brackets may hold anything; the nice value is the seventeenth field after it.
            stat.rsplit_once(") ")?.1.split(' ').nth(16)?.parse::<i32>().ok()
        };
        let mut connection = store.aside().await.expect("a connection");
        let pid = "SELECT pg_backend_pid()";
        let pid: i32 = sqlx::query_scalar(pid).fetch_one(&mut *connection).await.expect("a number");
        let other: i32 =
            sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&db).await.expect("a number");
        assert_eq!(
            nice(pid).expect("on this machine"),
            (nice(other).expect("there too") + i32::from(priority::BEHIND)).min(19)
        );
        connection.close().await.expect("closed");
        let alive = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1";
        while sqlx::query_scalar::<_, i64>(alive).bind(pid).fetch_one(&db).await.expect("a count") > 0 {
            tokio::task::yield_now().await;
        }
    }
}

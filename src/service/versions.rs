//! ListVersions, GetVersion, Rollback, PromoteVersion, UpdateVersion.

use super::{Page, PageRequest, Service};
use crate::domain::{Result, Version};
use uuid::Uuid;

impl Service {
    /// The version of this number.
    pub async fn get_version(&self, pool: &str, number: i64) -> Result<Version> {
        let pool = self.store.pool(pool).await?;
        self.store.version(pool.id, number).await
    }

    /// Versions, newest first.
    pub async fn list_versions(&self, pool: &str, page: &PageRequest) -> Result<Page<Version>> {
        let pool = self.store.pool(pool).await?;
        let limit = page.limit(&self.limits);
        let versions = self.store.versions(pool.id, page.after_key("versions")?, limit + 1).await?;
        Ok(Page::cut(versions, limit, "versions", |version| version.number.to_string()))
    }

    /// Lets an earlier version serve again: number `to`, or the one that served when the present one was promoted.
    ///
    /// The round at work rests on the version that goes, so it ends, its jobs with it, and the next one opens on the
    /// version that comes; labels count on, and annotators keep what they hold.
    ///
    /// # Errors
    /// `NotReady` where there is nothing to go back to, the version never passed the gate or its weights are gone,
    /// `EtagMismatch`.
    pub async fn rollback(&self, pool: &str, to: Option<i64>, etag: Option<Uuid>) -> Result<Version> {
        let pool = self.active_pool(pool).await?;
        let version = self.store.rollback(pool.id, to, etag, self.now()).await?;
        tracing::warn!(pool = pool.name, version = version.number, "rolled back");
        Ok(version)
    }

    /// Lets any version serve, one that the gate refused too; the round at work ends as by a rollback.
    ///
    /// # Errors
    /// `NotReady` where its weights are gone, `EtagMismatch`.
    pub async fn promote_version(&self, pool: &str, number: i64, etag: Option<Uuid>) -> Result<Version> {
        let pool = self.active_pool(pool).await?;
        let version = self.store.promote(pool.id, number, etag, self.now()).await?;
        tracing::warn!(pool = pool.name, version = version.number, "promoted on request");
        Ok(version)
    }

    /// Keeps a version's weights whatever the policy says, or lets the policy decide again.
    ///
    /// # Errors
    /// `NotReady` where they are gone already.
    pub async fn pin_version(&self, pool: &str, number: i64, pinned: bool) -> Result<Version> {
        let pool = self.active_pool(pool).await?;
        self.store.pin_version(pool.id, number, pinned).await
    }
}

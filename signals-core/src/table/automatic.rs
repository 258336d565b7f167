//! The types of columns that the library sets: times and versions.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A type that a column with `#[model(auto_now)]` or `#[model(auto_now_add)]` can have.
///
/// It is implemented for the time types of the crates chrono and time (features `chrono` and `time`), and for an `Option` of
/// such a type. A program can implement it for its own types:
///
/// ```
/// use std::time::{SystemTime, UNIX_EPOCH};
/// use sqlx_signals::AutoNow;
///
/// struct UnixSeconds(i64);
///
/// impl AutoNow for UnixSeconds {
///     fn at(now: SystemTime) -> Self {
///         Self(now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64))
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a time that can be set to now",
    label = "neither `auto_now` nor `auto_now_add` can be of this type",
    note = "the types of chrono and time are, with sqlx-signals' feature `chrono` or `time`"
)]
pub trait AutoNow {
    /// The value for this point in time, which is in whole microseconds because PostgreSQL stores no finer resolution.
    ///
    /// See the example of [`AutoNow`].
    fn at(now: SystemTime) -> Self;
}

impl<T: AutoNow> AutoNow for Option<T> {
    fn at(now: SystemTime) -> Self {
        Some(T::at(now))
    }
}

/// The current time, in whole microseconds.
pub(crate) fn now() -> SystemTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_micros(since.as_micros() as u64)
}

#[cfg(any(feature = "chrono", feature = "time"))]
fn micros(now: SystemTime) -> i64 {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(feature = "chrono")]
mod chrono {
    use sqlx::types::chrono::{DateTime, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, Utc};

    use super::{AutoNow, SystemTime, micros};

    impl AutoNow for DateTime<Utc> {
        fn at(now: SystemTime) -> Self {
            DateTime::from_timestamp_micros(micros(now)).unwrap_or_default()
        }
    }

    macro_rules! from_utc {
        ($($ty:ty: $from:expr;)*) => { $(
            impl AutoNow for $ty {
                fn at(now: SystemTime) -> Self {
                    let from: fn(DateTime<Utc>) -> Self = $from;
                    from(DateTime::<Utc>::at(now))
                }
            }
        )* };
    }

    from_utc! {
        DateTime<FixedOffset>: |now| now.fixed_offset();
        NaiveDateTime: |now| now.naive_utc();
        NaiveDate: |now| now.date_naive();
        NaiveTime: |now| now.time();
    }
}

#[cfg(feature = "time")]
mod time {
    use sqlx::types::time::{Date, OffsetDateTime, PrimitiveDateTime, Time};

    use super::{AutoNow, SystemTime, micros};

    impl AutoNow for OffsetDateTime {
        fn at(now: SystemTime) -> Self {
            let nanos = i128::from(micros(now)) * 1000;
            OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH)
        }
    }

    macro_rules! from_utc {
        ($($ty:ty: $from:expr;)*) => { $(
            impl AutoNow for $ty {
                fn at(now: SystemTime) -> Self {
                    let from: fn(OffsetDateTime) -> Self = $from;
                    from(OffsetDateTime::at(now))
                }
            }
        )* };
    }

    from_utc! {
        PrimitiveDateTime: |now| PrimitiveDateTime::new(now.date(), now.time());
        Date: |now| now.date();
        Time: |now| now.time();
    }
}

/// A type that a column with `#[model(version)]` can have: `i16`, `i32` or `i64`.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// #[derive(Model, Clone)]
/// struct Page {
///     id: Option<i64>,
///     title: String,
///     #[model(version)]
///     version: i32,
/// }
/// # #[tokio::main] async fn main() -> Result<()> {
/// # let db = Db::connect("sqlite::memory:").await?;
/// # db.execute("CREATE TABLE page (id INTEGER PRIMARY KEY, title TEXT NOT NULL, version INTEGER NOT NULL)").await?;
/// let mut page = Page { id: None, title: "Ann".into(), version: 1 };
/// page.save(&db).await?;
/// let mut stale = page.clone();
/// page.save(&db).await?;
/// assert_eq!(page.version, 2);
/// assert!(stale.save(&db).await.unwrap_err().is_stale());
/// # Ok(()) }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a `version`",
    label = "expected `i16`, `i32` or `i64`"
)]
pub trait Version: Copy {
    /// The next version.
    #[doc(hidden)]
    fn next(self) -> Self;

    #[doc(hidden)]
    fn number(self) -> i64;
}

impl Version for i16 {
    fn next(self) -> Self {
        self.wrapping_add(1)
    }

    fn number(self) -> i64 {
        self.into()
    }
}

impl Version for i32 {
    fn next(self) -> Self {
        self.wrapping_add(1)
    }

    fn number(self) -> i64 {
        self.into()
    }
}

impl Version for i64 {
    fn next(self) -> Self {
        self.wrapping_add(1)
    }

    fn number(self) -> i64 {
        self
    }
}

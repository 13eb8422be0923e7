//! Numbers of the store, each with a type of its own, so that one cannot be passed for another.

use std::fmt::{Display, Formatter};
use std::ops::{Add, Sub};

use rusqlite::ToSql;
use rusqlite::types::{FromSql, FromSqlResult, ToSqlOutput, ValueRef};

macro_rules! integer_types {
    ($($(#[$attribute:meta])* $name:ident;)*) => {$(
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(in crate::store) struct $name(pub(in crate::store) i64);

        impl From<i64> for $name {
            fn from(number: i64) -> Self {
                $name(number)
            }
        }

        impl From<$name> for i64 {
            fn from(number: $name) -> Self {
                number.0
            }
        }

        impl ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                self.0.to_sql()
            }
        }

        impl FromSql for $name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                i64::column_result(value).map($name)
            }
        }

        impl Display for $name {
            fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

integer_types! {
    /// Sequence of an entry in the chain; the first entry has 1.
    Seq;
    /// Instant, in nanoseconds since the epoch.
    Nanos;
    /// Row ID of a source.
    SourceId;
    /// Row ID of an event kind (table `shape`).
    KindId;
    /// Row ID of a line template (table `form`).
    TemplateId;
    /// Row ID of an actor.
    ActorId;
    /// Row ID of a label.
    LabelId;
}

impl Seq {
    /// Later than every sequence.
    pub(in crate::store) const MAX: Seq = Seq(i64::MAX);
}

impl Add<i64> for Seq {
    type Output = Seq;

    fn add(self, entries: i64) -> Seq {
        Seq(self.0 + entries)
    }
}

impl Sub<i64> for Seq {
    type Output = Seq;

    fn sub(self, entries: i64) -> Seq {
        Seq(self.0 - entries)
    }
}

impl Sub for Seq {
    type Output = i64;

    fn sub(self, earlier: Seq) -> i64 {
        self.0 - earlier.0
    }
}

impl Nanos {
    /// Earlier than every event.
    pub(in crate::store) const MIN: Nanos = Nanos(i64::MIN);
    /// Later than every event.
    pub(in crate::store) const MAX: Nanos = Nanos(i64::MAX);

    /// Returns the current time.
    pub(in crate::store) fn now() -> Nanos {
        Nanos(crate::clock::now_nano())
    }
}

// What the tables look like, and how an older file becomes a newer one. The file carries our
// application_id and, in user_version, how many of the migrations it has seen; each migration runs
// in one transaction. A file of a newer Sigmacast, or of another program, is refused and left as it
// was.
//
// `migrate` is for the one writing connection; `check` for everybody who only reads.
#pragma once

#include "storage/database.h"

namespace sigmacast::storage {

inline constexpr std::int64_t kApplicationId = 0x53474D43;  // "SGMC"

/// The version that this program makes and understands.
std::int64_t schema_version();

/// Errors: kUnsupported (a newer schema, another program's file), kCorrupt, or SQLite's.
Result<> migrate(Database& db);
Result<> check(Database& db);

}  // namespace sigmacast::storage

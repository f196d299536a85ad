// What becomes of a database that SQLite, or the start-up check, cannot work with. It is put aside
// under another name beside the new one (x.db.damaged-20261121T101530Z, with its -wal), never
// deleted and never written to; whatever can still be read of it, and carries a right checksum, is
// the beginning of a new file. That one has no epoch yet, so that it gets a new one. The old name
// always belongs to the old file or to a complete new one, whenever the power goes.
//
// Blocking; before the database is opened, under its lock.
#pragma once

#include <string>
#include <vector>

#include "common/result.h"
#include "common/time.h"

namespace sigmacast::storage {

/// Finishes what a salvage had begun when it was cut off, and puts aside a write-ahead log whose
/// database is gone or empty: SQLite would delete it. Says what it did.
Result<std::vector<std::string>> begin_salvage(const std::string& path, Now now);

/// Says what it did, in sentences. Errors: kFull, kUnavailable; kCorrupt, where the file does not
/// look like one of ours: then it is left alone.
Result<std::vector<std::string>> salvage(const std::string& path, Now now, const std::string& why);

/// The file itself, where the path is a link to it: what stands beside a database (lock,
/// write-ahead log, reserve, damaged copies) stands beside the file. Before anything else is done
/// with it.
Result<std::string> follow_links(const std::string& path);

/// Remembers, in a file beside it, that the database was found damaged while it was in use, so that
/// the next start looks at all of it.
void suspect(const std::string& path);
bool is_suspect(const std::string& path);
void forget_suspicion(const std::string& path);

}  // namespace sigmacast::storage

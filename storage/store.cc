#include "storage/store.h"

#include <algorithm>
#include <optional>
#include <set>

#include "common/log.h"
#include "common/random.h"
#include "storage/checksum.h"
#include "storage/schema.h"

namespace sigmacast::storage {
namespace {

/// Rows that the start-up check reads back at most, for each stream or damaged key.
constexpr int kReplayRowsMax = 10'000;

constexpr std::string_view kReserveGivenUp =
    "the disk is full: its reserve was given up, and the oldest rows go until there is room";

/// Carries an Error out of the private functions; caught in each public one.
struct Failure {
    Error error;
};

void need(const Result<>& result) {
    if (!result) {
        throw Failure{result.error()};
    }
}

template <class T>
T need(Result<T> result) {
    if (!result) {
        throw Failure{result.error()};
    }
    return std::move(*result);
}

/// The database took offence at the row, and would again; not at the disk.
bool is_poison(const Error& error) {
    return error.code == Errc::kTooLarge || error.code == Errc::kInvalid;
}

StreamKind kind_of(const Message& row) {
    switch (row.kind) {
        case Kind::kValue:
        case Kind::kTransition:
            return StreamKind::kState;
        case Kind::kEvent:
            return StreamKind::kEvent;
        case Kind::kReport:
            return StreamKind::kReport;
        case Kind::kHead:
        case Kind::kGap:
            break;
    }
    return StreamKind::kUnknown;
}

std::int64_t row_checksum(std::int64_t stream, const Message& row, const Stamp& stamp,
                          std::string_view header, std::string_view body) {
    return checksum(row.pos, stream, row.seq, static_cast<int>(row.kind), stamp.at_ms, stamp.boot,
                    stamp.mono_us, header, body);
}

std::int64_t state_checksum(std::int64_t stream, std::string_view key, std::uint64_t seq,
                            std::uint64_t pos, const Stamp& stamp, std::string_view header,
                            std::string_view body) {
    return checksum(stream, key, seq, pos, stamp.at_ms, stamp.boot, stamp.mono_us, header, body);
}

std::int64_t poll_checksum(std::int64_t origin, std::string_view poll, const Stamp& stamp,
                           std::string_view header) {
    return checksum(origin, poll, stamp.at_ms, stamp.boot, stamp.mono_us, header);
}

std::string_view view(const Bytes& bytes) {
    return bytes ? std::string_view(*bytes) : std::string_view();
}

/// A poll's row is a report that carries the broker's age.
Message to_message(const PollState& poll) {
    Message message;
    message.kind = Kind::kReport;
    message.topic = report_topic(poll.report.poll);
    message.origin = poll.origin;
    message.poll = poll.report.poll;
    message.seq = poll.report_seq;
    message.age = poll.age;
    message.detail = poll.report;
    return message;
}

/// Beyond it a number of the store's own is damage: each counts from 1 by ones.
constexpr std::int64_t kCountMax = std::int64_t{1} << 62;

std::int64_t count_of(std::int64_t number, std::string_view what, const Database& db) {
    if (number < 0 || number > kCountMax) {
        throw Failure{{Errc::kCorrupt, db.path() + ": " + std::string(what) + " says " +
                                           std::to_string(number) +
                                           ", which is damage: put a copy of the file back, or "
                                           "move it away and lose its history"}};
    }
    return number;
}

std::uint64_t position_of(std::int64_t number, std::string_view what, const Database& db) {
    return static_cast<std::uint64_t>(count_of(number, what, db));
}

std::int64_t boot_of(Database& db, const std::string& boot) {
    Statement insert = need(db.prepare("INSERT OR IGNORE INTO boots (boot) VALUES (?)"));
    need(insert.run(boot));
    Statement find = need(db.prepare("SELECT id FROM boots WHERE boot = ?"));
    find.bind(boot);
    need(find.step());
    return find.integer(0);
}

}  // namespace

Store::Store(Database db, Statements statements, std::int64_t boot)
    : db_(std::move(db)), reserve_(db_.path()), sql_(std::move(statements)), boot_(boot) {}

Store::Statements Store::prepare(Database& db) {
    const auto make = [&db](std::string_view sql) { return need(db.prepare(sql)); };
    return {
        .origin = make(
            "INSERT INTO origins (id, name, epoch, instance) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET epoch = excluded.epoch, instance = excluded.instance"),
        .stream = make("INSERT INTO streams (id, origin, topic, kind, seq, epoch, pseq) "
                       "VALUES (?, (SELECT id FROM origins WHERE name = ?), ?, ?, ?, ?, ?) "
                       "ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, seq = excluded.seq, "
                       "epoch = excluded.epoch, pseq = excluded.pseq"),
        .log = make("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"),
        .state = make("INSERT OR REPLACE INTO state VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"),
        .end_key = make("DELETE FROM state WHERE stream = ? AND key = ?"),
        .poll = make("INSERT OR REPLACE INTO polls VALUES (?, ?, ?, ?, ?, ?, ?)"),
        .meta = make("INSERT OR REPLACE INTO meta VALUES (?, ?)"),
        .first_rows = make("SELECT pos, seq, at_ms FROM log WHERE stream = ? ORDER BY seq LIMIT ?"),
        .oldest_rows = make("SELECT pos, stream, seq FROM log ORDER BY pos LIMIT ?"),
        .trim_stream = make("DELETE FROM log WHERE stream = ? AND seq <= ?"),
        .floor = make("UPDATE streams SET floor_pos = ?, floor_seq = ? WHERE id = ?"),
    };
}

Result<std::unique_ptr<Store>> Store::open(const std::string& path, Now now,
                                           const std::string& boot) {
    try {
        return open_once(path, now, boot);
    } catch (const Failure& failure) {
        if (failure.error.code != Errc::kFull || !Reserve(path).release()) {
            return failure.error;
        }
        log_error(kReserveGivenUp, {{"error", failure.error.message}});
    }
    try {
        std::unique_ptr<Store> store = open_once(path, now, boot);
        store->full_ = true;
        return store;
    } catch (const Failure& failure) {
        return failure.error;
    }
}

std::unique_ptr<Store> Store::open_once(const std::string& path, Now now, const std::string& boot) {
    Database db = need(Database::open(path, Database::Mode::kWrite));
    need(migrate(db));
    db.limit_row_bytes(kRowBytesMax);
    Statements statements = prepare(db);
    const std::int64_t boot_row = boot_of(db, boot);
    std::unique_ptr<Store> store(new Store(std::move(db), std::move(statements), boot_row));
    Transaction transaction = need(Transaction::begin(store->db_));
    store->load(now);
    need(transaction.commit());
    return store;
}

// ---- What a start finds ----

void Store::load(Now now) {
    load_meta();
    load_streams();
    check_log();
    load_state(now);
    replay_values(now);
    load_polls(now);
    for (const auto& [name, stream] : streams_) {
        loaded_.streams.push_back(stream.record);
    }
    std::sort(loaded_.values.begin(), loaded_.values.end(),
              [](const Message& a, const Message& b) { return a.pos < b.pos; });
    loaded_.pos = pos_;
}

void Store::load_meta() {
    Statement read = need(db_.prepare("SELECT key, value FROM meta"));
    while (need(read.step())) {
        if (read.bytes(0) == "log_epoch") {
            loaded_.epoch = read.text(1);
        } else if (read.bytes(0) == "pos") {
            pos_ = position_of(read.integer(1), "the log's position", db_);
        }
    }
    if (loaded_.epoch.empty()) {
        loaded_.epoch = Random::from_system().hex(16);
        need(sql_.meta.run("log_epoch", loaded_.epoch));
    }
}

void Store::load_streams() {
    Statement origins =
        need(db_.prepare("SELECT id, name, epoch, instance FROM origins ORDER BY id"));
    while (need(origins.step())) {
        origins_[origins.text(1)] = origins.integer(0);
        next_origin_ = count_of(origins.integer(0), "an origin's id", db_) + 1;
        loaded_.origins.push_back({origins.text(1), origins.natural(2), origins.text(3)});
    }
    Statement streams = need(db_.prepare(
        "SELECT s.id, o.name, s.topic, s.kind, s.seq, s.epoch, s.pseq, s.floor_pos, s.floor_seq "
        "FROM streams s JOIN origins o ON o.id = s.origin ORDER BY s.id"));
    while (need(streams.step())) {
        StreamRecord record{streams.text(1),
                            streams.text(2),
                            static_cast<StreamKind>(streams.integer(3)),
                            position_of(streams.integer(4), "a stream's position", db_),
                            streams.natural(5),
                            streams.natural(6),
                            position_of(streams.integer(7), "a stream's floor", db_),
                            position_of(streams.integer(8), "a stream's floor", db_)};
        next_stream_ = count_of(streams.integer(0), "a stream's id", db_) + 1;
        StreamName name{record.origin, record.topic};
        streams_[std::move(name)] = {streams.integer(0), true, std::move(record)};
    }
}

/// Compares the positions with the log, both ways. One index lookup a stream.
void Store::check_log() {
    std::uint64_t newest =
        position_of(need(db_.number("SELECT max(pos) FROM log")), "a row's position", db_);
    Statement last = need(db_.prepare("SELECT max(seq) FROM log WHERE stream = ?"));
    bool lost = false;
    for (auto& [name, stream] : streams_) {
        StreamRecord& record = stream.record;
        newest = std::max(newest, record.floor_pos);
        last.bind(stream.id);
        need(last.step());
        const std::uint64_t seq = std::max(
            position_of(last.integer(0), "a row's position in its stream", db_), record.floor_seq);
        if (seq != record.seq) {
            lost = lost || seq < record.seq;
            repairs_.push_back("stream " + record.origin + "/" + record.topic + " said seq " +
                               std::to_string(record.seq) + ", the log has " + std::to_string(seq));
            record.seq = std::max(seq, record.seq);
            write_stream(stream);
        }
    }
    last.rewind();
    if (lost || newest < pos_) {
        renew_epoch("the log lacks rows that were committed");
    }
    pos_ = std::max(pos_, newest);
    need(sql_.meta.run("pos", pos_));
}

void Store::renew_epoch(const std::string& why) {
    loaded_.epoch = Random::from_system().hex(16);
    need(sql_.meta.run("log_epoch", loaded_.epoch));
    repairs_.push_back("the log has a new epoch, clients start from a snapshot: " + why);
}

void Store::load_state(Now now) {
    Statement read = need(db_.prepare(
        "SELECT stream, key, seq, pos, at_ms, boot, mono_us, header, body, crc FROM state"));
    std::vector<std::pair<std::int64_t, std::string>> damaged;
    while (need(read.step())) {
        const Stamp stamp{read.integer(4), read.integer(5), read.integer(6)};
        const bool intact =
            state_checksum(read.integer(0), read.bytes(1), read.natural(2), read.natural(3), stamp,
                           read.bytes(7), read.bytes(8)) == read.integer(9);
        auto message = decode_row(read.bytes(7), read.bytes(8), stamp, boot_, now);
        if (!intact || !message) {
            damaged.emplace_back(read.integer(0), read.text(1));
            continue;
        }
        message->seq = read.natural(2);
        message->pos = read.natural(3);
        loaded_.values.push_back(std::move(*message));
    }
    for (const auto& [stream, key] : damaged) {
        rebuild(stream, key, now);
    }
}

/// Takes the newest intact value of the key from the log; without one the key is gone.
void Store::rebuild(std::int64_t stream, const std::string& key, Now now) {
    need(sql_.end_key.run(stream, key));
    Statement read =
        need(db_.prepare("SELECT pos, seq, at_ms, boot, mono_us, header, body, crc FROM log "
                         "WHERE stream = ? AND kind = 1 ORDER BY seq DESC LIMIT ?"));
    read.bind(stream, std::int64_t{kReplayRowsMax});
    while (need(read.step())) {
        const Stamp stamp{read.integer(2), read.integer(3), read.integer(4)};
        auto message = decode_row(read.bytes(5), read.bytes(6), stamp, boot_, now);
        if (!message || message->key != key) {
            continue;
        }
        message->pos = read.natural(0);
        message->seq = read.natural(1);
        if (row_checksum(stream, *message, stamp, read.bytes(5), read.bytes(6)) !=
            read.integer(7)) {
            continue;
        }
        if (message->final) {
            break;
        }
        need(sql_.state.run(stream, key, message->seq, message->pos, stamp.at_ms, stamp.boot,
                            stamp.mono_us, Blob{read.bytes(5)}, Blob{read.bytes(6)},
                            state_checksum(stream, key, message->seq, message->pos, stamp,
                                           read.bytes(5), read.bytes(6))));
        repairs_.push_back("a damaged value of " + message->origin + "/" + message->topic +
                           " key '" + key + "' was rebuilt from the log");
        loaded_.values.push_back(std::move(*message));
        return;
    }
    repairs_.push_back("a damaged value with key '" + key + "' is not in the log and was dropped");
}

/// A commit upserts the state with the log. Where the log is nevertheless ahead, the log is right.
void Store::replay_values(Now now) {
    std::map<StreamName, std::uint64_t> state_seq;
    for (const Message& value : loaded_.values) {
        std::uint64_t& seq = state_seq[{value.origin, value.topic}];
        seq = std::max(seq, value.seq);
    }
    Statement read =
        need(db_.prepare("SELECT pos, seq, at_ms, boot, mono_us, header, body, crc FROM log "
                         "WHERE stream = ? AND seq > ? AND kind = 1 ORDER BY seq LIMIT ?"));
    for (const auto& [name, from] : state_seq) {
        const auto found = streams_.find(name);
        if (found == streams_.end()) {
            continue;
        }
        const std::int64_t id = found->second.id;
        read.bind(id, from, std::int64_t{kReplayRowsMax});
        while (need(read.step())) {
            const Stamp stamp{read.integer(2), read.integer(3), read.integer(4)};
            auto message = decode_row(read.bytes(5), read.bytes(6), stamp, boot_, now);
            if (!message) {
                continue;
            }
            message->pos = read.natural(0);
            message->seq = read.natural(1);
            if (row_checksum(id, *message, stamp, read.bytes(5), read.bytes(6)) !=
                read.integer(7)) {
                continue;
            }
            const auto older = std::erase_if(loaded_.values, [&](const Message& value) {
                return value.origin == message->origin && value.topic == message->topic &&
                       value.key == message->key;
            });
            if (message->final && older == 0) {
                continue;  // It ended, and the state knows.
            }
            repairs_.push_back("the state of " + message->origin + "/" + message->topic + " key '" +
                               message->key + "' was behind the log and was brought up to it");
            if (message->final) {
                need(sql_.end_key.run(id, message->key));
                continue;
            }
            need(sql_.state.run(id, message->key, message->seq, message->pos, stamp.at_ms,
                                stamp.boot, stamp.mono_us, Blob{read.bytes(5)}, Blob{read.bytes(6)},
                                state_checksum(id, message->key, message->seq, message->pos, stamp,
                                               read.bytes(5), read.bytes(6))));
            loaded_.values.push_back(std::move(*message));
        }
    }
}

void Store::load_polls(Now now) {
    Statement read = need(db_.prepare(
        "SELECT origin, poll, at_ms, boot, mono_us, header, crc FROM polls ORDER BY origin, poll"));
    while (need(read.step())) {
        const Stamp stamp{read.integer(2), read.integer(3), read.integer(4)};
        auto message = decode_row(read.bytes(5), {}, stamp, boot_, now);
        if (poll_checksum(read.integer(0), read.bytes(1), stamp, read.bytes(5)) !=
                read.integer(6) ||
            !message || message->kind != Kind::kReport) {
            repairs_.push_back("the damaged report of poll '" + read.text(1) +
                               "' was dropped: its values have no as_of until it reports again");
            continue;
        }
        PollState poll;
        poll.origin = message->origin;
        poll.report = message->report();
        poll.report_seq = message->seq;
        poll.age = message->age;
        loaded_.polls.push_back(std::move(poll));
    }
}

// ---- Committing ----

Result<Committed> Store::commit(const Batch& batch) {
    try {
        return write(batch, false);
    } catch (const Failure& failure) {
        if (!is_poison(failure.error)) {
            return refused(failure.error);
        }
        log_warn("a batch holds a row that the database refuses; writing it row by row",
                 {{"error", failure.error.message}});
    }
    try {
        return write(batch, true);
    } catch (const Failure& failure) {
        return refused(failure.error);
    }
}

Committed Store::write(const Batch& batch, bool row_by_row) {
    Changes changes;
    changes.pos = pos_;
    Transaction transaction = need(Transaction::begin(db_));
    for (const OriginRecord& origin : batch.origins) {
        write_origin(origin, changes);
    }
    for (const Position& position : batch.positions) {
        StreamRecord& record = stream_of(position.origin, position.topic, changes).record;
        record.epoch = position.epoch;
        record.pseq = position.pseq;
        if (position.kind != StreamKind::kUnknown) {
            record.kind = position.kind;
        }
    }
    write_rows(batch, row_by_row, changes);
    for (const auto& [name, stream] : changes.streams) {
        write_stream(stream);
    }
    const Stamp stamp = make_stamp(batch.now, boot_);
    for (const PollState& poll : batch.polls) {
        write_poll(poll, stamp, batch.now.mono, changes);
    }
    need(sql_.meta.run("pos", changes.pos));
    if (!batch.epoch.empty()) {
        need(sql_.meta.run("log_epoch", batch.epoch));
    }
    need(transaction.commit());
    pos_ = changes.pos;
    for (auto& [name, stream] : changes.streams) {
        stream.saved = true;
        streams_[name] = std::move(stream);
    }
    origins_.merge(changes.origins);
    return {pos_, std::move(changes.poisoned)};
}

void Store::write_rows(const Batch& batch, bool row_by_row, Changes& changes) {
    const Stamp stamp = make_stamp(batch.now, boot_);
    std::map<std::pair<std::int64_t, std::string_view>, const Message*> newest;
    for (const Message& row : batch.rows) {
        Stream& stream = stream_of(row.origin, row.topic, changes);
        if (!stream.saved) {
            write_stream(stream);  // The row refers to it.
            stream.saved = true;
        }
        stream.record.seq = row.seq;
        if (const StreamKind kind = kind_of(row); kind != StreamKind::kUnknown) {
            stream.record.kind = kind;
        }
        changes.pos = row.pos;
        try {
            write_row(row, stream, stamp, batch.now.mono);
        } catch (const Failure& failure) {
            if (!row_by_row || !is_poison(failure.error)) {
                throw;
            }
            // A refused statement leaves nothing behind, so the gap can take the same positions.
            log_error("the database refused a row; a gap takes its place",
                      {{"origin", row.origin},
                       {"topic", row.topic},
                       {"pos", row.pos},
                       {"error", failure.error.message}});
            write_row(gap_in_place_of(row, "the database refused it"), stream, stamp,
                      batch.now.mono);
            changes.poisoned.push_back(row.pos);
            continue;
        }
        if (row.kind == Kind::kValue) {
            newest[{stream.id, row.key}] = &row;
        }
    }
    for (const auto& [key, row] : newest) {
        write_state(*row, stream_of(row->origin, row->topic, changes), stamp, batch.now.mono);
    }
}

void Store::write_origin(const OriginRecord& origin, Changes& changes) {
    const std::int64_t id = origin_of(origin.name, changes);
    need(sql_.origin.run(id, origin.name, origin.epoch, origin.instance));
}

void Store::write_row(const Message& row, const Stream& stream, const Stamp& stamp, Mono now) {
    const auto [header, body] = encode_record(row, now);
    need(sql_.log.run(row.pos, stream.id, row.seq, std::int64_t{static_cast<int>(row.kind)},
                      stamp.at_ms, stamp.boot, stamp.mono_us, Blob{header}, Blob{view(body)},
                      row_checksum(stream.id, row, stamp, header, view(body))));
}

void Store::write_state(const Message& row, const Stream& stream, const Stamp& stamp, Mono now) {
    if (row.final) {
        need(sql_.end_key.run(stream.id, row.key));
        return;
    }
    const auto [header, body] = encode_record(row, now);
    need(sql_.state.run(
        stream.id, row.key, row.seq, row.pos, stamp.at_ms, stamp.boot, stamp.mono_us, Blob{header},
        Blob{view(body)},
        state_checksum(stream.id, row.key, row.seq, row.pos, stamp, header, view(body))));
}

void Store::write_poll(const PollState& poll, const Stamp& stamp, Mono now, Changes& changes) {
    const std::int64_t origin = origin_of(poll.origin, changes);
    const auto [header, body] = encode_record(to_message(poll), now);
    need(sql_.poll.run(origin, poll.report.poll, stamp.at_ms, stamp.boot, stamp.mono_us,
                       Blob{header}, poll_checksum(origin, poll.report.poll, stamp, header)));
}

void Store::write_stream(const Stream& stream) {
    const StreamRecord& record = stream.record;
    need(sql_.stream.run(stream.id, record.origin, record.topic,
                         std::int64_t{static_cast<int>(record.kind)}, record.seq, record.epoch,
                         record.pseq));
}

Store::Stream& Store::stream_of(const std::string& origin, const std::string& topic,
                                Changes& changes) {
    const StreamName name{origin, topic};
    if (const auto changed = changes.streams.find(name); changed != changes.streams.end()) {
        return changed->second;
    }
    if (const auto known = streams_.find(name); known != streams_.end()) {
        return changes.streams.emplace(name, known->second).first->second;
    }
    origin_of(origin, changes);
    Stream stream{next_stream_++, false, {}};
    stream.record.origin = origin;
    stream.record.topic = topic;
    return changes.streams.emplace(name, std::move(stream)).first->second;
}

/// The origin's id; one that is new gets a row, so that its place in the order of arrival is kept.
std::int64_t Store::origin_of(const std::string& name, Changes& changes) {
    if (const auto known = origins_.find(name); known != origins_.end()) {
        return known->second;
    }
    if (const auto changed = changes.origins.find(name); changed != changes.origins.end()) {
        return changed->second;
    }
    const std::int64_t id = next_origin_++;
    changes.origins[name] = id;
    need(sql_.origin.run(id, name, std::uint64_t{0}, ""));
    return id;
}

// ---- Retention ----

Result<std::size_t> Store::trim(Now now, const TrimLimits& limits) {
    try {
        std::vector<Trimmed> trimmed = find_old(now, limits);
        if (trimmed.empty() && too_large(limits.retain_bytes)) {
            trimmed = find_oldest();
        }
        if (trimmed.empty()) {
            keep_reserve();
            return std::size_t{0};
        }
        Transaction transaction = need(Transaction::begin(db_));
        std::map<Stream*, Trimmed> last;
        for (const Trimmed& row : trimmed) {
            last.insert_or_assign(row.stream, row);
        }
        for (const auto& [stream, row] : last) {
            need(sql_.trim_stream.run(stream->id, row.seq));
            need(sql_.floor.run(row.pos, row.seq, stream->id));
        }
        need(transaction.commit());
        return trimmed.size();
    } catch (const Failure& failure) {
        return refused(failure.error);
    }
}

/// Where the disk is full: makes what room there can be, so that the next trim() finds some.
Error Store::refused(Error error) {
    if (error.code == Errc::kFull) {
        full_ = true;
        if (reserve_.release()) {
            log_error(kReserveGivenUp, {{"error", error.message}});
        }
        checkpoint();
    }
    return error;
}

void Store::keep_reserve() {
    if (reserve_.keep() && full_) {
        full_ = false;
        log_info("the disk has room again, and a reserve was made", {{"database", db_.path()}});
    }
}

bool Store::too_large(std::uint64_t retain_bytes) {
    const Size now = size();
    if (full_ && now.used > now.file - std::min(now.file / 8, kSpareBytesMax)) {
        return true;
    }
    return retain_bytes > 0 && now.used > retain_bytes;
}

/// Rows past their age, oldest first in each stream, one slice of them.
std::vector<Store::Trimmed> Store::find_old(Now now, const TrimLimits& limits) {
    std::vector<Trimmed> found;
    for (auto& [name, stream] : streams_) {
        const StreamKind kind = stream.record.kind;
        const Millis keep =
            kind == StreamKind::kState ? limits.retain_values : limits.retain_events;
        const std::int64_t cutoff = (now.wall - keep).time_since_epoch().count();
        const std::int64_t room = kTrimRowsMax - static_cast<std::int64_t>(found.size());
        if (room == 0) {
            break;
        }
        if (kind == StreamKind::kReport) {
            continue;
        }
        sql_.first_rows.bind(stream.id, room);
        while (need(sql_.first_rows.step()) && sql_.first_rows.integer(2) < cutoff) {
            found.push_back({&stream, sql_.first_rows.natural(0), sql_.first_rows.natural(1)});
        }
        sql_.first_rows.rewind();
    }
    return found;
}

/// The oldest rows of all streams, one slice of them.
std::vector<Store::Trimmed> Store::find_oldest() {
    std::map<std::int64_t, Stream*> by_id;
    for (auto& [name, stream] : streams_) {
        by_id[stream.id] = &stream;
    }
    std::vector<Trimmed> found;
    sql_.oldest_rows.bind(std::int64_t{kTrimRowsMax});
    while (need(sql_.oldest_rows.step())) {
        const auto stream = by_id.find(sql_.oldest_rows.integer(1));
        if (stream != by_id.end()) {
            found.push_back(
                {stream->second, sql_.oldest_rows.natural(0), sql_.oldest_rows.natural(2)});
        }
    }
    return found;
}

Result<std::uint64_t> Store::bytes() {
    try {
        return size().used;
    } catch (const Failure& failure) {
        return failure.error;
    }
}

Store::Size Store::size() {
    const std::int64_t pages = need(db_.number("PRAGMA page_count"));
    const std::int64_t free = need(db_.number("PRAGMA freelist_count"));
    const std::int64_t bytes = need(db_.number("PRAGMA page_size"));
    return {static_cast<std::uint64_t>((pages - free) * bytes),
            static_cast<std::uint64_t>(pages * bytes)};
}

}  // namespace sigmacast::storage

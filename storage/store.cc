#include "storage/store.h"

#include <algorithm>
#include <optional>

#include "common/log.h"
#include "common/random.h"
#include "storage/failure.h"
#include "storage/rows.h"
#include "storage/salvage.h"
#include "storage/schema.h"

namespace sigmacast::storage {
namespace {

/// Rows that the start-up check reads back at most, for each stream; all of them where rows of the
/// state are gone or damaged.
constexpr std::int64_t kReplayRowsMax = 10'000;
/// More repairs than these are counted only.
constexpr std::size_t kRepairsMax = 100;

constexpr std::string_view kReserveGivenUp =
    "the disk is full: its reserve was given up, and the oldest rows go until there is room";

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

std::uint64_t as_sum(std::int64_t crc) {
    return static_cast<std::uint64_t>(crc);
}

/// A time as a row has it, within bounds that no clock reaches: a damaged one is not to overflow
/// what is computed with it.
std::int64_t possible_time(std::int64_t time) {
    constexpr std::int64_t kMax = std::int64_t{1} << 53;
    return std::clamp(time, -kMax, kMax);
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

}  // namespace

Store::Store(Database db, Statements statements)
    : db_(std::move(db)), reserve_(db_.path()), sql_(std::move(statements)) {}

Store::Statements Store::prepare(Database& db) {
    const auto make = [&db](std::string_view sql) { return need(db.prepare(sql)); };
    return {
        .origin =
            make("INSERT INTO origins (id, name, epoch, instance, crc) VALUES (?, ?, ?, ?, ?) "
                 "ON CONFLICT (id) DO UPDATE SET epoch = excluded.epoch, "
                 "instance = excluded.instance, crc = excluded.crc"),
        .stream = make("INSERT INTO streams (id, origin, topic, kind, seq, epoch, pseq, floor_pos, "
                       "floor_seq, head, crc) "
                       "VALUES (?, (SELECT id FROM origins WHERE name = ?), ?, ?, ?, ?, ?, ?, ?, "
                       "?, ?) ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, "
                       "seq = excluded.seq, epoch = excluded.epoch, pseq = excluded.pseq, "
                       "floor_pos = excluded.floor_pos, floor_seq = excluded.floor_seq, "
                       "head = excluded.head, crc = excluded.crc"),
        .log = make("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"),
        .state = make("INSERT OR REPLACE INTO state VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"),
        .state_crc = make("SELECT crc FROM state WHERE stream = ? AND key = ?"),
        .end_key = make("DELETE FROM state WHERE stream = ? AND key = ?"),
        .poll = make("INSERT OR REPLACE INTO polls VALUES (?, ?, ?, ?, ?, ?, ?)"),
        .poll_crc = make("SELECT crc FROM polls WHERE origin = ? AND poll = ?"),
        .first_rows = make("SELECT" + std::string(kLogColumns) +
                           "FROM log l WHERE l.stream = ? ORDER BY l.seq"),
        .oldest_rows = make("SELECT" + std::string(kLogColumns) + "FROM log l ORDER BY l.pos"),
        .trim_stream = make("DELETE FROM log WHERE stream = ? AND seq <= ?"),
        .pages = make("PRAGMA page_count"),
        .free_pages = make("PRAGMA freelist_count"),
        .meta = need(MetaWriter::prepare(db)),
    };
}

Result<std::unique_ptr<Store>> Store::open(const std::string& name, Now now,
                                           const std::string& boot) {
    const auto file = follow_links(name);
    if (!file) {
        return file.error();
    }
    const std::string& path = *file;
    auto begun = begin_salvage(path, now);
    if (!begun) {
        return begun.error();
    }
    std::vector<std::string> salvaged = std::move(*begun);
    auto store = try_open(path, now, boot, Repairs::kRefuse);
    if (!store && store.error().code == Errc::kFull && Reserve(path).release()) {
        log_error(kReserveGivenUp, {{"error", store.error().message}});
        store = try_open(path, now, boot, Repairs::kRefuse);
        if (store) {
            (*store)->full_ = true;
        }
    }
    if (!store && store.error().code == Errc::kCorrupt) {
        // What one reading found may have been the way from the disk, and nothing is changed for
        // that.
        store = try_open(path, now, boot, Repairs::kMake);
    }
    if (!store && store.error().code == Errc::kCorrupt) {
        auto saved = salvage(path, now, store.error().message);
        if (!saved) {
            return saved.error();
        }
        salvaged = std::move(*saved);
        store = try_open(path, now, boot, Repairs::kMake);
    }
    if (store) {
        forget_suspicion(path);
        std::vector<std::string>& repairs = (*store)->repairs_;
        repairs.insert(repairs.begin(), salvaged.begin(), salvaged.end());
    }
    return store;
}

Result<std::unique_ptr<Store>> Store::try_open(const std::string& path, Now now,
                                               const std::string& boot, Repairs repairs) {
    try {
        Database db = need(Database::open(path, Database::Mode::kWrite));
        need(migrate(db));
        const bool doubtful = is_suspect(path);
        if (doubtful) {
            need(db.check());
        }
        db.limit_row_bytes(kRowBytesMax);
        Statements statements = prepare(db);
        std::unique_ptr<Store> store(new Store(std::move(db), std::move(statements)));
        store->doubtful_ = doubtful;
        Transaction transaction = need(Transaction::begin(store->db_));
        store->load(boot, now);
        if (repairs == Repairs::kRefuse && !store->repairs_.empty()) {
            return Error{Errc::kCorrupt, store->repairs_.front()};
        }
        need(transaction.commit());
        return store;
    } catch (const Failure& failure) {
        return failure.error.code == Errc::kConflict ? Error{Errc::kCorrupt, failure.error.message}
                                                     // Two rows where one may be.
                                                     : failure.error;
    }
}

// ---- What a start finds ----

void Store::load(const std::string& boot, Now now) {
    const Meta meta = load_meta();
    load_boot(boot, meta);
    load_clock(meta, now);
    load_streams();
    drop_impossible_rows();
    check_log(now);
    load_state(now);
    load_polls(now);
    replay_values(now);
    save_sums();
    need(write_meta(begin_changes()));
    for (const auto& [name, stream] : streams_) {
        loaded_.streams.push_back(stream.record);
    }
    for (auto& [name, value] : values_) {
        loaded_.values.push_back(std::move(value));
    }
    values_.clear();
    std::sort(loaded_.values.begin(), loaded_.values.end(),
              [](const Message& a, const Message& b) { return a.pos < b.pos; });
    loaded_.epoch = epoch_;
    loaded_.pos = pos_;
}

Meta Store::load_meta() {
    Meta meta = need(read_meta(db_));
    sums_at_open_ = meta.sums;  // If it is these that are damaged, what they are of is looked at.
    if (meta.damaged) {
        // A damaged key may be out of its order: they are written anew, all of them.
        need(db_.execute("DELETE FROM meta"));
        renew_epoch("a row of meta is damaged");
        return meta;
    }
    epoch_ = meta.epoch.empty() ? Random::from_system().hex(16) : meta.epoch;
    pos_ = meta.pos;
    lost_to_ = meta.lost_to;
    clean_ = meta.clean;
    return meta;
}

/// A row of another boot must never pass for one of this boot: its age would be wrong, and said to
/// be right. So a number that may have been given out before is given to nobody.
void Store::load_boot(const std::string& boot, const Meta& meta) {
    const Boots boots = need(read_boots(db_, meta, boot));
    boots_sum_ = boots.sum;
    if (boots.number) {
        boot_ = *boots.number;
        return;
    }
    if (boots.damaged) {
        need(db_.execute("DELETE FROM boots"));
        boots_sum_ = 0;
        repaired("the numbers of the machine's boots are damaged: ages of older rows are guesses");
    }
    const bool lost = boots.damaged || (boots.empty && pos_ > 0);
    Statement insert = need(db_.prepare("INSERT INTO boots VALUES (?, ?)"));
    if (lost) {
        constexpr std::uint64_t kUnused = std::uint64_t{1} << 32;
        const auto number =
            static_cast<std::int64_t>(Random::from_system().between(kUnused, kUnused << 20));
        need(insert.run(number, boot));
    } else {
        need(insert.run(Null{}, boot));
    }
    boot_ = need(db_.number("SELECT last_insert_rowid()"));
    boots_sum_ += boot_checksum(boot_, boot);
}

/// Without these rows nothing else can be believed: a file that lacks one is salvaged.
void Store::load_streams() {
    const auto damaged = [this](std::string_view what) {
        return Failure{{Errc::kCorrupt, db_.path() + ": " + std::string(what)}};
    };
    Statement origins =
        need(db_.prepare("SELECT id, name, epoch, instance, crc FROM origins ORDER BY id"));
    while (need(origins.step())) {
        const bool text = origins.is_text(1) && origins.is_text(3);
        OriginRecord record{origins.text(1), origins.natural(2), origins.text(3)};
        const Origin origin{origins.integer(0), origins.integer(4)};
        if (!text || origin_checksum(origin.id, record) != origin.crc || !is_count(origin.id)) {
            throw damaged("the row of an origin is damaged");
        }
        sums_.streams += as_sum(origin.crc);
        next_origin_ = std::max(next_origin_, origin.id + 1);
        origins_[record.name] = origin;
        loaded_.origins.push_back(std::move(record));
    }
    Statement streams = need(db_.prepare(kStreamRows));
    while (need(streams.step())) {
        const bool text = streams.is_text(2);
        Stream stream{streams.integer(0), true, stream_record(streams), streams.integer(9),
                      streams.integer(10)};
        if (!text || stream_checksum(stream.id, stream.record, stream.head) != stream.crc ||
            !is_count(stream.id) || !is_count(streams.integer(4))) {
            throw damaged("the row of a stream is damaged");
        }
        sums_.streams += as_sum(stream.crc);
        next_stream_ = std::max(next_stream_, stream.id + 1);
        StreamName name{stream.record.origin, stream.record.topic};
        streams_[std::move(name)] = std::move(stream);
    }
    if (sums_at_open_ && sums_at_open_->streams != sums_.streams) {
        throw damaged("rows of streams or origins are gone, or are not the newest");
    }
}

/// A key of the log that no row can have is damage, and would leave no room for the next.
void Store::drop_impossible_rows() {
    const std::string limit = std::to_string(kCountMax);
    const std::string impossible = " FROM log WHERE pos < 1 OR pos > " + limit;
    const std::int64_t rows = need(db_.number("SELECT count(*)" + impossible));
    if (rows > 0) {
        need(db_.execute("DELETE" + impossible));
        repaired(std::to_string(rows) + " rows of the log with impossible positions were removed");
        clean_ = false;
    }
}

/// Compares the positions with the log, both ways, by the newest row of each stream; and the chain
/// behind them after a start that was not clean.
void Store::check_log(Now now) {
    const std::int64_t newest = need(db_.number("SELECT max(pos) FROM log"));
    std::uint64_t known = std::max(static_cast<std::uint64_t>(newest), lost_to_);
    for (const auto& [name, stream] : streams_) {
        known = std::max(known, stream.record.floor_pos);
    }
    bool lost = known < pos_;
    pos_ = std::max(pos_, known);
    const std::uint64_t committed = pos_;
    const std::size_t before = repairs_.size();
    for (auto& [name, stream] : streams_) {
        if (stream.record.kind != StreamKind::kReport) {
            const std::uint64_t seq = stream.record.seq;
            check_tail(stream, now);
            lost = lost || pos_ > committed || stream.record.seq < seq;
        }
    }
    if (lost) {
        renew_epoch("the log lacks rows that were committed");
        lost_to_ = pos_;  // One new epoch is enough.
    }
    if (doubtful_ || !clean_ || repairs_.size() > before) {
        check_chain(doubtful_ || pos_ <= kCheckRowsMax ? 0 : pos_ - kCheckRowsMax);
    }
}

/// The newest row of a stream, as the index finds it.
Store::Tail Store::read_tail(const Stream& stream) {
    Statement last = need(db_.prepare("SELECT" + std::string(kLogColumns) +
                                      "FROM log l WHERE l.stream = ? ORDER BY l.seq DESC LIMIT 1"));
    Tail tail{.seq = stream.record.floor_seq, .crc = stream.head};
    last.bind(stream.id);
    if (need(last.step())) {
        const LogRow row = log_row(last);
        tail.seq = std::max(tail.seq, static_cast<std::uint64_t>(row.seq));
        tail.crc = row.crc;
        tail.pos = row.pos;
        tail.intact = row.intact();
    }
    return tail;
}

/// Where the newest rows are gone, a gap stands for them from now on.
void Store::check_tail(Stream& stream, Now now) {
    StreamRecord& record = stream.record;
    Tail tail = read_tail(stream);
    const auto expected = [&] {
        return tail.seq == record.seq && (tail.crc == stream.head || tail.crc == kDisowned);
    };
    if (!expected() && reindex_once()) {
        const Tail before = std::exchange(tail, read_tail(stream));
        if (tail.seq != before.seq || tail.pos != before.pos || tail.intact != before.intact) {
            repaired("the index of the log was made anew: it was wrong about a newest row");
        }
    }
    const std::uint64_t seq = tail.seq;
    const std::string name = "stream " + record.origin + "/" + record.topic;
    Changes changes = begin_changes();
    if (seq > record.seq) {
        if (!is_count(static_cast<std::int64_t>(seq)) || !tail.intact) {
            throw Failure{{Errc::kCorrupt, db_.path() + ": " + name + " has an impossible row"}};
        }
        repaired(name + " said seq " + std::to_string(record.seq) + ", the log has " +
                 std::to_string(seq));
        record.seq = seq;
        stream.head = tail.crc;
        write_stream(stream, changes);
    } else if (seq < record.seq) {
        repaired(name + " said seq " + std::to_string(record.seq) + ", the log has " +
                 std::to_string(seq) + ": a gap takes the place of the rest");
        Message gap;
        gap.kind = Kind::kGap;
        gap.origin = record.origin;
        gap.topic = record.topic;
        gap.seq = record.seq;
        gap.pos = ++pos_;
        gap.at = now.wall;
        gap.detail = Gap{gap.seq, "the log lost it"};
        write_row(gap, stream, make_stamp(now, boot_), now.mono);
        write_stream(stream, changes);
    } else if (!expected()) {
        need(db_.execute("UPDATE log SET crc = " + std::to_string(kDisowned) +
                         " WHERE pos = " + std::to_string(tail.pos)));
        repaired(name + ": its newest row is not the one that was committed; it is a gap now");
    }
    sums_ = changes.sums;
}

/// True: nothing is wrong with the rows from `from_pos` on.
bool Store::check_chain(std::uint64_t from_pos) {
    bool right = true;
    for (const auto& [name, stream] : streams_) {
        right = check_chain_of(stream, from_pos) && right;
    }
    return right;
}

/// Before rows are called lost or damaged: it may be the index that lacks them, or has others in
/// their places. False: it was done already.
bool Store::reindex_once() {
    if (std::exchange(reindexed_, true)) {
        return false;
    }
    need(db_.execute("REINDEX log_by_stream"));
    return true;
}

bool Store::check_chain_of(const Stream& stream, std::uint64_t from_pos) {
    Findings found = walk(stream, from_pos);
    if (found.count() > 0 && reindex_once()) {
        Findings again = walk(stream, from_pos);
        if (again.count() < found.count()) {
            repaired("the index of the log was made anew: it was wrong about " +
                     std::to_string(found.count() - again.count()) + " rows");
        }
        found = std::move(again);
    }
    Statement disown = need(db_.prepare("UPDATE log SET crc = ? WHERE pos = ?"));
    for (const auto* rows : {&found.damaged, &found.replaced}) {
        for (const std::int64_t pos : *rows) {
            need(disown.run(kDisowned, pos));
        }
    }
    if (found.count() == 0) {
        return true;
    }
    lost_to_ = found.missing > 0 ? pos_ : lost_to_;  // Readers need not tell of these again.
    repaired("stream " + stream.record.origin + "/" + stream.record.topic + ": of the log's rows " +
             std::to_string(found.damaged.size()) + " are damaged, " +
             std::to_string(found.replaced.size()) + " are not the ones that were committed, " +
             std::to_string(found.missing) + " are missing: readers get gaps for them");
    return false;
}

/// From the newest row down: each one that is intact vouches for the one before.
Store::Findings Store::walk(const Stream& stream, std::uint64_t from_pos) {
    Findings found;
    Statement read = need(db_.prepare("SELECT" + std::string(kLogColumns) +
                                      "FROM log l WHERE l.stream = ? ORDER BY l.seq DESC"));
    std::uint64_t next = stream.record.seq;
    std::optional<std::int64_t> expected = stream.head;
    read.bind(stream.id);
    while (need(read.step())) {
        const LogRow row = log_row(read);
        const auto seq = static_cast<std::uint64_t>(row.seq);
        if (seq != next) {
            found.missing += seq < next ? next - seq : 0;
            expected.reset();
        }
        next = seq - 1;
        if (row.crc == kDisowned) {
            expected.reset();  // It was found before.
        } else if (!row.intact()) {
            found.damaged.push_back(row.pos);
            expected.reset();
        } else if (expected && row.crc != *expected) {
            found.replaced.push_back(row.pos);
            expected.reset();
        } else {
            expected = row.prev;
        }
        if (static_cast<std::uint64_t>(row.pos) < from_pos) {
            return found;
        }
    }
    if (stream.record.kind != StreamKind::kReport && next > stream.record.floor_seq) {
        found.missing += next - stream.record.floor_seq;
    }
    return found;
}

Result<bool> Store::check_all() {
    try {
        Transaction transaction = need(Transaction::begin(db_));
        reindexed_ = false;
        const bool right = check_chain(0);
        need(write_meta(begin_changes()));
        need(transaction.commit());
        return right;
    } catch (const Failure& failure) {
        return failure.error;
    }
}

void Store::renew_epoch(const std::string& why) {
    epoch_ = Random::from_system().hex(16);
    repaired("the log has a new epoch, clients start from a snapshot: " + why);
}

void Store::repaired(std::string what) {
    if (repairs_.size() < kRepairsMax) {
        repairs_.push_back(std::move(what));
    } else if (repairs_.size() == kRepairsMax) {
        repairs_.emplace_back("and more, which are not told one by one");
    }
}

namespace {

constexpr std::string_view kStateRows =
    "SELECT stream, key, seq, pos, at_ms, boot, mono_us, header, body, crc FROM state";

/// A row of kStateRows. Errors: kCorrupt.
Result<Message> state_row(const Statement& row, std::int64_t boot, Now now) {
    const bool text = row.is_text(1);
    const Stamp stamp{row.integer(4), row.integer(5), row.integer(6)};
    if (!text || state_checksum(row.integer(0), row.bytes(1), row.natural(2), row.natural(3), stamp,
                                row.bytes(7), row.bytes(8)) != row.integer(9)) {
        return Error{Errc::kCorrupt, "the row in the state is damaged"};
    }
    auto message = decode_row(row.bytes(7), row.bytes(8), stamp, boot, now);
    if (message) {
        message->seq = row.natural(2);
        message->pos = row.natural(3);
    }
    return message;
}

}  // namespace

void Store::load_state(Now now) {
    Statement read = need(db_.prepare(kStateRows));
    while (need(read.step())) {
        sums_.state += as_sum(read.integer(9));
        auto message = state_row(read, boot_, now);
        if (!message) {
            damaged_values_.push_back(read.text(1));
            continue;
        }
        ValueName name{{message->origin, message->topic}, message->key};
        const auto [held, first] = values_.try_emplace(std::move(name), *message);
        if (!first) {
            damaged_values_.push_back(message->key);  // Two rows of one key: the newer one counts.
            if (held->second.seq < message->seq) {
                held->second = std::move(*message);
            }
        }
    }
    if (!damaged_values_.empty()) {
        keep_sound_values(now);
    }
}

/// A damaged key may be out of its order, where no search finds it: the table is made anew.
void Store::keep_sound_values(Now now) {
    need(db_.execute("CREATE TEMP TABLE sound AS SELECT * FROM state LIMIT 0"));
    {
        Statement read = need(db_.prepare(kStateRows));
        Statement keep =
            need(db_.prepare("INSERT INTO temp.sound VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"));
        while (need(read.step())) {
            if (state_row(read, boot_, now)) {
                need(keep.run(read.integer(0), read.bytes(1), read.integer(2), read.integer(3),
                              read.integer(4), read.integer(5), read.integer(6),
                              Blob{read.bytes(7)}, Blob{read.bytes(8)}, read.integer(9)));
            }
        }
    }
    need(db_.execute(
        "DELETE FROM state; INSERT OR REPLACE INTO state SELECT * FROM temp.sound "
        "WHERE stream IN (SELECT id FROM streams) ORDER BY seq; DROP TABLE temp.sound"));
}

void Store::restore_value(std::int64_t stream, Message message, const Stamp& stamp,
                          std::string_view header, std::string_view body) {
    need(sql_.state.run(
        stream, message.key, message.seq, message.pos, stamp.at_ms, stamp.boot, stamp.mono_us,
        Blob{header}, Blob{body},
        state_checksum(stream, message.key, message.seq, message.pos, stamp, header, body)));
    ValueName name{{message.origin, message.topic}, message.key};
    values_.insert_or_assign(std::move(name), std::move(message));
}

/// A commit upserts the state with the log. Where the log is nevertheless ahead, the log is right;
/// where rows of the state are gone, all of the log is read for them.
void Store::replay_values(Now now) {
    const bool gone = sums_at_open_ && sums_at_open_->state != sums_.state;
    const bool incomplete = gone || !damaged_values_.empty();
    if (gone) {
        repaired("rows of the state are gone, or are not the newest: held against the whole log");
    }
    std::map<StreamName, std::uint64_t> state_seq;
    for (const auto& [name, value] : values_) {
        std::uint64_t& seq = state_seq[name.first];
        seq = std::max(seq, value.seq);
    }
    for (const auto& [name, stream] : streams_) {
        if (incomplete) {
            replay(name, stream, 0, now);
        } else if (const auto from = state_seq.find(name); from != state_seq.end()) {
            replay(name, stream, from->second, now);
        }
    }
    for (const std::string& key : damaged_values_) {
        repaired("a damaged value with key '" + key + "' is not in the log and was dropped");
    }
}

void Store::replay(const StreamName& name, const Stream& stream, std::uint64_t from, Now now) {
    Statement read = need(db_.prepare("SELECT" + std::string(kLogColumns) +
                                      "FROM log l WHERE l.stream = ? AND l.seq > ? AND l.kind = 1 "
                                      "ORDER BY l.seq LIMIT ?"));
    read.bind(stream.id, from, from == 0 ? std::int64_t{-1} : kReplayRowsMax);
    struct Newest {
        Message message;
        Stamp stamp;
        std::string header;
        std::string body;
    };
    std::map<std::string, Newest> newest;
    while (need(read.step())) {
        const LogRow row = log_row(read);
        auto message = row.message(boot_, now);
        if (message) {
            std::string key = message->key;
            newest.insert_or_assign(std::move(key),
                                    Newest{std::move(*message), row.stamp, std::string(row.header),
                                           std::string(row.body)});
        }
    }
    for (auto& [key, found] : newest) {
        const auto held = values_.find({name, key});
        const bool known = held != values_.end();
        if (known ? held->second.seq >= found.message.seq : found.message.final) {
            continue;
        }
        const bool damaged = std::erase(damaged_values_, key) > 0;
        repaired("the state of " + name.first + "/" + name.second + " key '" + key +
                 (damaged ? "' was damaged and was rebuilt from the log"
                          : "' was behind the log and was brought up to it"));
        if (found.message.final) {
            need(sql_.end_key.run(stream.id, key));
            values_.erase(held);
        } else {
            restore_value(stream.id, std::move(found.message), found.stamp, found.header,
                          found.body);
        }
    }
}

void Store::load_polls(Now now) {
    struct Row {
        std::int64_t origin;
        std::string poll;
        Stamp stamp;
        std::string header;
        std::int64_t crc;
    };
    std::vector<Row> sound;
    bool damaged = false;
    Statement read = need(db_.prepare(
        "SELECT origin, poll, at_ms, boot, mono_us, header, crc FROM polls ORDER BY origin, poll"));
    while (need(read.step())) {
        const bool text = read.is_text(1);
        Row row{read.integer(0),
                read.text(1),
                {read.integer(2), read.integer(3), read.integer(4)},
                read.text(5),
                read.integer(6)};
        sums_.state += as_sum(row.crc);
        auto message = decode_row(row.header, {}, row.stamp, boot_, now);
        if (!text || poll_checksum(row.origin, row.poll, row.stamp, row.header) != row.crc ||
            !message || message->kind != Kind::kReport) {
            repaired("the damaged report of poll '" + row.poll +
                     "' was dropped: its values have no as_of until it reports again");
            damaged = true;
            continue;
        }
        PollState poll;
        poll.origin = message->origin;
        poll.report = message->report();
        poll.report_seq = message->seq;
        poll.age = message->age;
        loaded_.polls.push_back(std::move(poll));
        sound.push_back(std::move(row));
    }
    if (!damaged) {
        return;
    }
    // A damaged key may be out of its order, where no search finds it: the table is made anew.
    need(db_.execute("DELETE FROM polls"));
    for (const Row& row : sound) {
        need(sql_.poll.run(row.origin, row.poll, row.stamp.at_ms, row.stamp.boot, row.stamp.mono_us,
                           Blob{row.header}, row.crc));
    }
}

/// What was dropped or restored is in no sum yet.
void Store::save_sums() {
    sums_.state = 0;
    for (const char* table : {"state", "polls"}) {
        Statement read = need(db_.prepare(std::string("SELECT crc FROM ") + table));
        while (need(read.step())) {
            sums_.state += read.natural(0);
        }
    }
}

void Store::mark_clean() {
    if (damaged_) {
        return;
    }
    static_cast<void>(write_meta(begin_changes(), true));
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

Store::Changes Store::begin_changes() const {
    Changes changes;
    changes.pos = pos_;
    changes.epoch = epoch_;
    changes.sums = sums_;
    return changes;
}

Committed Store::write(const Batch& batch, bool row_by_row) {
    Changes changes = begin_changes();
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
    for (auto& [name, stream] : changes.streams) {
        write_stream(stream, changes);
    }
    const Stamp stamp = make_stamp(batch.now, boot_);
    for (const PollState& poll : batch.polls) {
        write_poll(poll, stamp, batch.now.mono, changes);
    }
    if (!batch.epoch.empty()) {
        changes.epoch = batch.epoch;
    }
    need(write_meta(changes));
    need(transaction.commit());
    Committed committed{changes.pos, std::move(changes.poisoned)};
    adopt(std::move(changes));
    return committed;
}

/// What has been committed counts from here on.
void Store::adopt(Changes changes) {
    pos_ = changes.pos;
    epoch_ = std::move(changes.epoch);
    sums_ = changes.sums;
    for (auto& [name, stream] : changes.streams) {
        stream.saved = true;
        streams_[name] = std::move(stream);
    }
    for (auto& [name, origin] : changes.origins) {
        origins_[name] = origin;
    }
}

Result<> Store::write_meta(const Changes& changes, bool clean) {
    Meta meta;
    meta.epoch = changes.epoch;
    meta.pos = changes.pos;
    meta.lost_to = lost_to_;
    meta.clean = clean;
    meta.sums = changes.sums;
    meta.clock_boot = boot_;
    meta.clock_offset_ms = clock_offset_.count();
    meta.boots = boots_sum_;
    return sql_.meta.write(meta);
}

void Store::write_rows(const Batch& batch, bool row_by_row, Changes& changes) {
    const Stamp stamp = make_stamp(batch.now, boot_);
    std::map<std::pair<std::int64_t, std::string_view>, const Message*> newest;
    for (const Message& row : batch.rows) {
        Stream& stream = stream_of(row.origin, row.topic, changes);
        if (!stream.saved) {
            write_stream(stream, changes);  // The row refers to it.
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
        write_state(*row, stream_of(row->origin, row->topic, changes), stamp, batch.now.mono,
                    changes);
    }
}

void Store::write_origin(const OriginRecord& record, Changes& changes) {
    Origin& origin = origin_of(record.name, changes);
    const std::int64_t crc = origin_checksum(origin.id, record);
    changes.sums.streams += as_sum(crc) - as_sum(std::exchange(origin.crc, crc));
    need(sql_.origin.run(origin.id, record.name, record.epoch, record.instance, crc));
}

void Store::write_row(const Message& row, Stream& stream, const Stamp& stamp, Mono now) {
    const auto [header, body] = encode_record(row, now);
    if (row.key.size() + header.size() + view(body).size() > kRecordBytesMax) {
        throw Failure{{Errc::kTooLarge, "a record of more than " + std::to_string(kRecordBytesMax) +
                                            " bytes: publish less in one value"}};
    }
    const LogRow written{.pos = static_cast<std::int64_t>(row.pos),
                         .stream = stream.id,
                         .seq = static_cast<std::int64_t>(row.seq),
                         .kind = static_cast<int>(row.kind),
                         .stamp = stamp,
                         .header = header,
                         .body = view(body),
                         .prev = stream.head};
    const std::int64_t crc = written.checksum();
    need(sql_.log.run(written.pos, written.stream, written.seq, written.kind, stamp.at_ms,
                      stamp.boot, stamp.mono_us, Blob{header}, Blob{written.body}, crc,
                      stream.head));
    stream.head = crc;
}

void Store::write_state(const Message& row, const Stream& stream, const Stamp& stamp, Mono now,
                        Changes& changes) {
    sql_.state_crc.bind(stream.id, row.key);
    if (need(sql_.state_crc.step())) {
        changes.sums.state -= sql_.state_crc.natural(0);
    }
    sql_.state_crc.rewind();
    if (row.final) {
        need(sql_.end_key.run(stream.id, row.key));
        return;
    }
    const auto [header, body] = encode_record(row, now);
    const std::int64_t crc =
        state_checksum(stream.id, row.key, row.seq, row.pos, stamp, header, view(body));
    need(sql_.state.run(stream.id, row.key, row.seq, row.pos, stamp.at_ms, stamp.boot,
                        stamp.mono_us, Blob{header}, Blob{view(body)}, crc));
    changes.sums.state += as_sum(crc);
}

void Store::write_poll(const PollState& poll, const Stamp& stamp, Mono now, Changes& changes) {
    const std::int64_t origin = origin_of(poll.origin, changes).id;
    sql_.poll_crc.bind(origin, poll.report.poll);
    if (need(sql_.poll_crc.step())) {
        changes.sums.state -= sql_.poll_crc.natural(0);
    }
    sql_.poll_crc.rewind();
    const auto [header, body] = encode_record(to_message(poll), now);
    const std::int64_t crc = poll_checksum(origin, poll.report.poll, stamp, header);
    need(sql_.poll.run(origin, poll.report.poll, stamp.at_ms, stamp.boot, stamp.mono_us,
                       Blob{header}, crc));
    changes.sums.state += as_sum(crc);
}

void Store::write_stream(Stream& stream, Changes& changes) {
    const StreamRecord& record = stream.record;
    const std::int64_t crc = stream_checksum(stream.id, record, stream.head);
    changes.sums.streams += as_sum(crc) - as_sum(std::exchange(stream.crc, crc));
    need(sql_.stream.run(stream.id, record.origin, record.topic,
                         std::int64_t{static_cast<int>(record.kind)}, record.seq, record.epoch,
                         record.pseq, record.floor_pos, record.floor_seq, stream.head, crc));
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
    Stream stream;
    stream.id = next_stream_++;
    stream.record.origin = origin;
    stream.record.topic = topic;
    return changes.streams.emplace(name, std::move(stream)).first->second;
}

/// One that is new gets a row, so that its place in the order of arrival is kept.
Store::Origin& Store::origin_of(const std::string& name, Changes& changes) {
    if (const auto changed = changes.origins.find(name); changed != changes.origins.end()) {
        return changed->second;
    }
    if (const auto known = origins_.find(name); known != origins_.end()) {
        return changes.origins.emplace(name, known->second).first->second;
    }
    Origin& origin = changes.origins[name];
    origin.id = next_origin_++;
    write_origin({name, 0, ""}, changes);
    return origin;
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
        Changes changes = begin_changes();
        for (const auto& [trimmed_from, row] : last) {
            Stream& stream =
                stream_of(trimmed_from->record.origin, trimmed_from->record.topic, changes);
            need(sql_.trim_stream.run(stream.id, row.seq));
            stream.record.floor_pos = row.pos;
            stream.record.floor_seq = row.seq;
            write_stream(stream, changes);
        }
        need(write_meta(changes));
        need(transaction.commit());
        adopt(std::move(changes));
        return trimmed.size();
    } catch (const Failure& failure) {
        return refused(failure.error);
    }
}

Result<> Store::checkpoint() {
    const auto done = db_.checkpoint();
    return done ? done : Result<>(refused(done.error()));
}

/// Where the disk is full: makes what room there can be, so that the next trim() finds some.
Error Store::refused(Error error) {
    if (error.code == Errc::kFull) {
        full_ = true;
        if (reserve_.release()) {
            log_error(kReserveGivenUp, {{"error", error.message}});
        }
        static_cast<void>(db_.checkpoint());  // The next one tells whether it still fails.
    }
    if (error.code == Errc::kCorrupt || error.code == Errc::kConflict) {
        damaged_ = true;
        suspect(db_.path());
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

/// What retention calls the time, so that a wall clock that jumps neither empties the log nor keeps
/// it for ever: the wall clock as it was when this boot first opened the file, moved on by the
/// clock that nobody sets. Where that is long after the newest row, either the machine was off, or
/// its clock is wrong: rows that are kept too long cost room, rows that went too early are lost.
void Store::load_clock(const Meta& meta, Now now) {
    if (!meta.damaged && meta.clock_boot == boot_) {
        clock_offset_ = Millis{possible_time(meta.clock_offset_ms)};
        return;
    }
    const auto millis = [](auto time) { return std::chrono::floor<Millis>(time); };
    clock_offset_ = millis(now.wall.time_since_epoch()) - millis(now.mono.time_since_epoch());
    Statement newest = need(db_.prepare("SELECT at_ms FROM log ORDER BY pos DESC LIMIT 1"));
    if (need(newest.step())) {
        const Millis stamped{possible_time(newest.integer(0))};
        clock_offset_ = std::min(clock_offset_, stamped + kOffMax);
    }
}

/// A row of this boot is as old as the clock that nobody sets says. One of an earlier boot may have
/// been stamped by a clock that was wrong: it is at least as old as this boot.
Millis Store::age_of(const Stamp& stamp, Now now) const {
    if (stamp.boot == boot_) {
        return elapsed(Mono{Micros{possible_time(stamp.mono_us)}}, now.mono);
    }
    const Millis up = std::chrono::floor<Millis>(now.mono.time_since_epoch());
    return std::max(up + clock_offset_ - Millis{possible_time(stamp.at_ms)}, up);
}

/// False: nothing in the row is believed, least of all how much to remove. It goes with the next
/// one of its stream.
bool Store::believes(const LogRow& row) {
    if (row.intact()) {
        return true;
    }
    if (row.crc != kDisowned && damage_.empty()) {
        damage_ = "the row of the log at position " + std::to_string(row.pos) + " is damaged";
        damaged_ = true;
        suspect(db_.path());
    }
    return false;
}

/// Rows past their age, oldest first in each stream, one slice of them.
std::vector<Store::Trimmed> Store::find_old(Now now, const TrimLimits& limits) {
    std::vector<Trimmed> found;
    for (auto& [name, stream] : streams_) {
        const StreamKind kind = stream.record.kind;
        const Millis keep =
            kind == StreamKind::kState ? limits.retain_values : limits.retain_events;
        if (kind == StreamKind::kReport) {
            continue;
        }
        sql_.first_rows.bind(stream.id);
        while (found.size() < kTrimRowsMax && need(sql_.first_rows.step())) {
            const LogRow row = log_row(sql_.first_rows);
            if (!believes(row)) {
                continue;
            }
            if (age_of(row.stamp, now) <= keep) {
                break;
            }
            found.push_back({&stream, static_cast<std::uint64_t>(row.pos),
                             static_cast<std::uint64_t>(row.seq)});
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
    sql_.oldest_rows.rewind();
    while (found.size() < kTrimRowsMax && need(sql_.oldest_rows.step())) {
        const LogRow row = log_row(sql_.oldest_rows);
        const auto stream = by_id.find(row.stream);
        if (believes(row) && stream != by_id.end()) {
            found.push_back({stream->second, static_cast<std::uint64_t>(row.pos),
                             static_cast<std::uint64_t>(row.seq)});
        }
    }
    sql_.oldest_rows.rewind();
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
    const auto number = [](Statement& pragma) {
        pragma.rewind();
        const bool row = need(pragma.step());
        const std::uint64_t found = row ? pragma.natural(0) : 0;
        pragma.rewind();
        return found;
    };
    const std::uint64_t pages = number(sql_.pages);
    const std::uint64_t used = pages - std::min(pages, number(sql_.free_pages));
    return {used * kPageBytes, pages * kPageBytes};
}

}  // namespace sigmacast::storage

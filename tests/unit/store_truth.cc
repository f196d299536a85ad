#include "tests/unit/store_truth.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "storage/reader.h"

namespace sigmacast::storage {
namespace {

constexpr const char* kBoot = "boot-a";
constexpr const char* kOrigin = "nas";

std::string key_of(const Message& message) {
    return message.origin + "/" + message.topic + "/" + message.key;
}

/// {"v": bytes} in msgpack.
std::string map_of(const std::string& bytes) {
    std::string map("\x81\xa1v\xc5", 4);
    map += static_cast<char>(bytes.size() >> 8);
    map += static_cast<char>(bytes.size() & 0xFF);
    return map + bytes;
}

bool same(const Message& a, const Message& b) {
    return a.kind == b.kind && a.origin == b.origin && a.topic == b.topic && a.key == b.key &&
           a.seq == b.seq && a.pos == b.pos && a.final == b.final &&
           (a.data ? *a.data : "") == (b.data ? *b.data : "");
}

}  // namespace

Truth::Truth(std::uint64_t seed) : random_(seed) {}

std::uint64_t Truth::random(std::uint64_t below) {
    return random_.between(0, below - 1);
}

void Truth::opened(const Loaded& loaded) {
    epoch_ = epoch_now_ = loaded.epoch;
}

void Truth::step(Step step) {
    steps_.push_back(std::move(step));
    if (on_step) {
        on_step(steps_.size());
    }
}

void Truth::advance(Millis by) {
    now_.mono += by;
    now_.wall += by;
}

Message Truth::row() {
    static const std::vector<std::pair<std::string, Kind>> kTopics{
        {"jobs", Kind::kValue},       {"jobs", Kind::kValue},   {"pools", Kind::kValue},
        {"pools", Kind::kTransition}, {"alerts", Kind::kEvent}, {"alerts", Kind::kEvent},
        {"alerts", Kind::kGap},       {"notes", Kind::kEvent}};
    const auto& [topic, kind] = kTopics[random(kTopics.size())];
    Message message;
    message.kind = kind;
    message.origin = kOrigin;
    message.topic = topic;
    message.at = now_.wall;
    message.age.quality = Quality::kLive;
    message.age.as_of = AsOf{now_.wall, now_.mono};
    if (kind == Kind::kValue) {
        message.key = "key" + std::to_string(random(8));
        message.final = random(10) == 0;
    }
    if (kind == Kind::kValue || kind == Kind::kEvent) {
        // Now and then one that takes several pages.
        const std::size_t bytes = random(20) == 0 ? 9'000 + random(9'000) : random(1'500);
        std::string data(bytes, '\0');
        std::generate(data.begin(), data.end(), [this] { return static_cast<char>(random(256)); });
        message.data = std::make_shared<const std::string>(map_of(data));
    }
    return message;
}

bool Truth::batch(Store& store, std::size_t rows_max) {
    Batch batch;
    batch.now = now_;
    std::map<std::string, std::uint64_t> seqs = seqs_;
    std::map<std::string, std::uint64_t> pseqs = pseqs_;
    std::uint64_t pos = pos_;
    const std::size_t rows = 1 + random(rows_max);
    for (std::size_t i = 0; i < rows; ++i) {
        Message message = row();
        message.seq = ++seqs[message.topic];
        message.pos = ++pos;
        if (message.kind == Kind::kGap) {
            message.detail = Gap{message.seq, "lost"};
        }
        batch.positions.push_back({kOrigin, message.topic,
                                   is_state(message.kind) ? StreamKind::kState : StreamKind::kEvent,
                                   1, ++pseqs[message.topic]});
        batch.rows.push_back(std::move(message));
    }
    if (steps_.empty()) {
        batch.origins.push_back({kOrigin, 1, "instance"});
    }
    PollState& poll = batch.polls.emplace_back();
    poll.origin = kOrigin;
    poll.report.poll = random(2) == 0 ? "p" : "q";
    poll.report.topic = "jobs";
    poll.report_seq = pos;
    if (random(50) == 0) {
        batch.epoch = random_.hex(16);
    }
    step({What::kTold, batch, 0});
    if (acknowledge_early) {
        step({What::kAcknowledged, {}, 0});
    }
    const auto answer = store.commit(batch);
    const bool taken = answer.has_value();
    full_ = full_ || (!taken && answer.error().code == Errc::kFull);
    if (!acknowledge_early) {
        step({taken ? What::kAcknowledged : What::kRefused, {}, 0});
    }
    if (taken) {
        epoch_now_ = batch.epoch.empty() ? epoch_now_ : batch.epoch;
        seqs_ = std::move(seqs);
        pseqs_ = std::move(pseqs);
        pos_ = pos;
    }
    return taken;
}

void Truth::trim(Store& store, Millis keep) {
    // On a full disk the oldest rows go, however old they are.
    step({What::kTrim,
          {},
          full_ ? std::numeric_limits<std::int64_t>::max()
                : (now_.wall - keep).time_since_epoch().count()});
    const auto trimmed = store.trim(now_, {keep, keep, 0});
    full_ = trimmed ? full_ && *trimmed > 0 : full_ || trimmed.error().code == Errc::kFull;
}

void Truth::Held::add(const Batch& batch) {
    for (const Message& row : batch.rows) {
        rows[row.pos] = row;
        pos = row.pos;
        seqs[row.topic] = row.seq;
        if (row.kind == Kind::kValue && row.final) {
            values.erase(key_of(row));
        } else if (row.kind == Kind::kValue) {
            values[key_of(row)] = row;
        }
    }
    for (const Position& position : batch.positions) {
        pseqs[position.topic] = position.pseq;
    }
    for (const PollState& poll : batch.polls) {
        polls[poll.report.poll] = poll.report_seq;
    }
    epoch = batch.epoch.empty() ? epoch : batch.epoch;
}

std::string Truth::judge(const std::string& path, std::uint64_t steps, Harm harm) const {
    Held sure;
    sure.epoch = epoch_;
    std::vector<const Batch*> possible;  // Told since the last one that was acknowledged.
    std::map<std::uint64_t, std::int64_t> told_at;
    std::int64_t cutoff = 0;
    for (std::uint64_t i = 0; i < steps; ++i) {
        const Step& step = steps_[i];
        if (step.what == What::kTold) {
            possible.push_back(&step.batch);
        } else if (step.what == What::kAcknowledged) {
            sure.add(*possible.back());
            for (const Message& row : possible.back()->rows) {
                told_at[row.pos] = possible.back()->now.wall.time_since_epoch().count();
            }
            possible.clear();
        } else if (step.what == What::kTrim) {
            cutoff = step.cutoff;
        }
        if (step.what == What::kTrim) {
            for (const auto& [pos, at] : told_at) {
                if (at < cutoff) {
                    sure.may_be_gone.insert(pos);
                }
            }
        }
    }
    const Now later{now_.mono + Seconds{60}, now_.wall + Seconds{60}};
    auto store = Store::open(path, later, kBoot);
    if (!store) {
        return "it does not open: " + store.error().message;
    }
    const bool damaged = !(*store)->repairs().empty();
    if (damaged && harm == Harm::kNone) {
        return "something had to be repaired: " + (*store)->repairs().front();
    }
    const Loaded loaded = (*store)->take_loaded();
    if (steps == 0) {
        return loaded.pos == 0 ? "" : "it holds what nobody has written";
    }
    auto reader = LogReader::open(path, kBoot);
    if (!reader) {
        return "it cannot be read: " + reader.error().message;
    }
    auto entries = reader->read({.max = 1'000'000}, later);
    if (!entries) {
        return "the log cannot be read: " + entries.error().message;
    }
    std::vector<Message> rows;
    for (LogEntry& entry : *entries) {
        rows.push_back(std::move(entry.message));
    }
    if (damaged) {
        return find_silent(loaded, rows);
    }
    std::string wrong = compare(sure, **store, loaded, rows);
    for (const Batch* batch : possible) {
        if (wrong.empty()) {
            break;
        }
        Held with = sure;
        with.add(*batch);
        if (compare(std::move(with), **store, loaded, rows).empty()) {
            wrong.clear();
        }
    }
    return wrong;
}

/// After damage that was told: whatever is given is something that was once written, or a gap.
std::string Truth::find_silent(const Loaded& loaded, const std::vector<Message>& rows) const {
    std::multimap<std::uint64_t, const Message*> told;
    for (const Step& step : steps_) {
        for (const Message& row : step.batch.rows) {
            told.emplace(row.pos, &row);
        }
    }
    const auto was_told = [&told](const Message& row) {
        const auto [from, to] = told.equal_range(row.pos);
        return std::any_of(from, to, [&row](const auto& one) { return same(*one.second, row); });
    };
    for (const Message& row : rows) {
        if (row.kind != Kind::kGap && !was_told(row)) {
            return "row " + std::to_string(row.pos) + " was never written";
        }
    }
    for (const Message& value : loaded.values) {
        if (!was_told(value)) {
            return "the value of " + key_of(value) + " was never written";
        }
    }
    return "";
}

std::string Truth::compare(Held held, Store& store, const Loaded& loaded,
                           const std::vector<Message>& rows) const {
    if (loaded.pos != held.pos) {
        return "it says pos " + std::to_string(loaded.pos) + ", acknowledged was " +
               std::to_string(held.pos);
    }
    if (loaded.epoch != held.epoch) {
        return "its epoch is another";
    }
    for (const Message& row : rows) {
        const auto expected = held.rows.find(row.pos);
        if (expected == held.rows.end()) {
            return "row " + std::to_string(row.pos) + " comes from nowhere";
        }
        if (!same(expected->second, row)) {
            return "row " + std::to_string(row.pos) + " is not what was written";
        }
        held.rows.erase(expected);
    }
    for (const auto& [pos, row] : held.rows) {
        if (!held.may_be_gone.contains(pos)) {
            return "row " + std::to_string(pos) + " is gone";
        }
    }
    for (const Message& value : loaded.values) {
        const auto expected = held.values.find(key_of(value));
        if (expected == held.values.end() || !same(expected->second, value)) {
            return "the value of " + key_of(value) + " is not the newest";
        }
        held.values.erase(expected);
    }
    if (!held.values.empty()) {
        return "the value of " + held.values.begin()->first + " is gone";
    }
    for (const StreamRecord& stream : loaded.streams) {
        if (stream.seq != held.seqs[stream.topic] || stream.pseq != held.pseqs[stream.topic]) {
            return "stream " + stream.topic + " stands elsewhere";
        }
        held.seqs.erase(stream.topic);
    }
    for (const PollState& poll : loaded.polls) {
        if (poll.report_seq != held.polls[poll.report.poll]) {
            return "the report of " + poll.report.poll + " is not the newest";
        }
        held.polls.erase(poll.report.poll);
    }
    if (!held.seqs.empty() || !held.polls.empty()) {
        return "a stream or a report is gone";
    }
    const auto chained = store.check_all();
    return chained && *chained ? "" : "the chain is broken";
}

}  // namespace sigmacast::storage

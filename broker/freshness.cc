#include "broker/freshness.h"

#include <algorithm>
#include <utility>

namespace sigmacast::broker {
namespace {

bool had_value(const PollState& state) {
    // State that no poll feeds exists only because a value arrived.
    return state.age.as_of.has_value() || is_state_poll(state.report.poll);
}

/// as_of never goes back, and a report without one (the producer restarted) does not take it away.
void keep_as_of(Age& age, const Age& before) {
    if (!age.as_of) {
        age.as_of = before.as_of;
        age.uncertain = before.uncertain;
    }
}

Age judge(const PollState& state, const Report& report) {
    Age age;
    age.as_of = report.as_of;
    keep_as_of(age, state.age);
    if (report.ok) {
        age.quality = Quality::kLive;
        return age;
    }
    age.quality = age.as_of ? Quality::kStale : Quality::kDown;
    age.reason = report.unsupported ? "METHOD_NOT_FOUND" : report.code;
    age.source = report.unsupported ? "engine" : report.source;
    age.retry_at = report.retry_at;
    return age;
}

}  // namespace

std::vector<Change> Freshness::on_start(std::vector<PollState> polls, Now now) {
    std::vector<Change> changes;
    for (PollState& restored : polls) {
        Origin& origin = origin_of(restored.origin, now);
        const std::string name = restored.report.poll;
        PollState& state = origin.polls[name].state;
        state = std::move(restored);
        origin.polls[name].heard = now.mono;
        if (had_value(state)) {
            if (auto change = fail(state, "BROKER_RESTARTED", "broker")) {
                changes.push_back(std::move(*change));
            }
        }
    }
    return changes;
}

void Freshness::declare(const std::string& name, const std::vector<protocol::DeclaredPoll>& polls,
                        Now now) {
    Origin& origin = origin_of(name, now);
    origin.head = now.mono;
    for (const protocol::DeclaredPoll& declared : polls) {
        if (is_state_poll(declared.name)) {
            continue;  // Not a name for a poll.
        }
        if (Poll* poll = poll_of(origin, name, declared.name, now)) {
            poll->state.report.topic = declared.topic;
            poll->state.report.interval = declared.interval;
            poll->state.report.deadline = declared.deadline;
        }
    }
}

std::optional<Change> Freshness::vouch(const std::string& name, const std::string& topic,
                                       const std::optional<AsOf>& as_of, Mono sent, Now now) {
    Origin& origin = origin_of(name, now);
    Poll* poll = poll_of(origin, name, state_poll(topic), now);
    heard(origin, *poll, sent);
    PollState& state = poll->state;
    if (state.age.quality == Quality::kInitial) {
        state.age.quality = Quality::kLive;  // Its first value says so itself: no change.
    }
    state.report.topic = topic;
    state.report.ok = true;
    ++state.report_seq;
    Age age;
    age.quality = Quality::kLive;
    age.as_of = as_of;
    if (state.age.as_of && (!as_of || as_of->mono < state.age.as_of->mono)) {
        age.as_of = state.age.as_of;
        age.uncertain = state.age.uncertain;
    }
    state.report.as_of = age.as_of;
    return settle(origin, *poll, std::move(age), now);
}

std::vector<Change> Freshness::on_new_owner(const std::string& name) {
    std::vector<Change> changes;
    const auto owner = origins_.find(name);
    if (owner == origins_.end()) {
        return changes;
    }
    for (auto& [poll_name, poll] : owner->second.polls) {
        if (!is_state_poll(poll_name)) {
            continue;
        }
        if (auto change = fail(poll.state, "PRODUCER_SILENT", "producer")) {
            changes.push_back(std::move(*change));
        }
    }
    return changes;
}

std::optional<Change> Freshness::on_report(const std::string& name, const Report& report,
                                           std::uint64_t seq, Mono sent, Now now) {
    if (report.poll.empty() || is_state_poll(report.poll)) {
        return std::nullopt;
    }
    Origin& origin = origin_of(name, now);
    Poll* poll = poll_of(origin, name, report.poll, now);
    if (poll == nullptr) {
        return std::nullopt;
    }
    heard(origin, *poll, sent);
    PollState& state = poll->state;
    const Report before = std::exchange(state.report, report);
    state.report_seq = seq;
    if (state.report.interval == Millis{0}) {
        state.report.interval = before.interval;
        state.report.deadline = before.deadline;
    }
    // The keys are the poll's whole set after a *good* answer: a failure says nothing about them.
    if (!report.ok && !report.keys) {
        state.report.keys = before.keys;
    }
    return settle(origin, *poll, judge(state, report), now);
}

void Freshness::on_head(const std::string& name, Mono sent, Now now) {
    Origin& origin = origin_of(name, now);
    origin.head = std::max(origin.head, sent);
}

std::optional<std::string_view> Freshness::silence_now(const PollState& shown, Now now) const {
    const Poll* known = known_poll(shown.origin, shown.report.poll);
    if (known == nullptr) {
        return std::nullopt;
    }
    const bool answered = shown.age.as_of && !is_state_poll(shown.report.poll);
    const Mono heard = answered ? std::min(known->heard, shown.age.as_of->mono) : known->heard;
    return silence_in(origins_.find(shown.origin)->second.head, heard, known->state, now);
}

std::optional<Age> Freshness::stale_age(const std::string& origin, const std::string& poll,
                                        const std::optional<AsOf>& as_of) const {
    const Poll* known = known_poll(origin, poll);
    if (known == nullptr || known->state.age.quality != Quality::kStale) {
        return std::nullopt;
    }
    const Age& age = known->state.age;
    const bool silent = age.reason == "POLL_SILENT" || age.reason == "PRODUCER_SILENT";
    // Hops round ages up: one answer has one wall time.
    const bool no_newer =
        as_of && age.as_of && (as_of->mono <= age.as_of->mono || as_of->wall == age.as_of->wall);
    return silent || no_newer ? std::optional(age) : std::nullopt;
}

std::optional<Age> Freshness::age_of_late_value(const std::string& origin, const std::string& poll,
                                                const std::optional<AsOf>& as_of, Mono sent,
                                                Now now) const {
    if (!is_state_poll(poll)) {
        if (const auto age = stale_age(origin, poll, as_of)) {
            return age;
        }
    }
    const Poll* known = known_poll(origin, poll);
    const auto silence = silence_in(sent, sent, known == nullptr ? PollState{} : known->state, now);
    if (!silence) {
        return std::nullopt;
    }
    Age age;
    age.quality = Quality::kStale;
    age.reason = *silence;
    age.source = "producer";
    return age;
}

std::vector<Change> Freshness::on_tick(Now now) {
    std::vector<Change> changes;
    for (auto& [name, origin] : origins_) {
        for (auto& [poll_name, poll] : origin.polls) {
            if (const auto silence = silence_in(origin.head, poll.heard, poll.state, now)) {
                if (auto change = fail(poll.state, *silence, "producer")) {
                    changes.push_back(std::move(*change));
                }
            }
        }
    }
    return changes;
}

std::optional<Mono> Freshness::deadline() const {
    std::optional<Mono> first;
    const auto consider = [&first](Mono when) { first = first ? std::min(*first, when) : when; };
    for (const auto& [name, origin] : origins_) {
        // What is silent already needs no waking: only a message changes it. A silent producer
        // hides silent polls.
        for (const auto& [poll_name, poll] : origin.polls) {
            if (poll.state.age.reason == "PRODUCER_SILENT") {
                continue;
            }
            consider(origin.head + kHeadSilence);
            if (const auto silent = silent_at(poll.heard, poll.state);
                silent && poll.state.age.reason != silence_of(poll.state)) {
                consider(*silent);
            }
        }
    }
    return first;
}

const PollState* Freshness::find(const std::string& origin, const std::string& poll) const {
    const Poll* known = known_poll(origin, poll);
    return known == nullptr ? nullptr : &known->state;
}

const Freshness::Poll* Freshness::known_poll(const std::string& origin,
                                             const std::string& poll) const {
    const auto owner = origins_.find(origin);
    if (owner == origins_.end()) {
        return nullptr;
    }
    const auto found = owner->second.polls.find(poll);
    return found == owner->second.polls.end() ? nullptr : &found->second;
}

std::vector<PollState> Freshness::of_origin(const std::string& origin) const {
    std::vector<PollState> states;
    if (const auto owner = origins_.find(origin); owner != origins_.end()) {
        for (const auto& [name, poll] : owner->second.polls) {
            states.push_back(poll.state);
        }
    }
    return states;
}

Freshness::Origin& Freshness::origin_of(const std::string& name, Now now) {
    return origins_.try_emplace(name, Origin{now.mono, {}}).first->second;
}

Freshness::Poll* Freshness::poll_of(Origin& origin, const std::string& origin_name,
                                    const std::string& poll, Now now) {
    if (const auto found = origin.polls.find(poll); found != origin.polls.end()) {
        return &found->second;
    }
    if (origin.polls.size() >= kPollsMax && !is_state_poll(poll)) {
        return nullptr;
    }
    Poll& made = origin.polls[poll];
    made.heard = now.mono;
    made.state.origin = origin_name;
    made.state.report.poll = poll;
    return &made;
}

void Freshness::heard(Origin& origin, Poll& poll, Mono sent) {
    origin.head = std::max(origin.head, sent);
    poll.heard = std::max(poll.heard, sent);
}

std::optional<std::string_view> Freshness::silence_in(Mono head, Mono heard, const PollState& state,
                                                      Now now) {
    if (now.mono - head >= kHeadSilence) {
        return "PRODUCER_SILENT";
    }
    const auto silent = silent_at(heard, state);
    return silent && now.mono >= *silent ? std::optional(silence_of(state)) : std::nullopt;
}

/// `age` holds, but for a quality that a silence since has overtaken.
std::optional<Change> Freshness::settle(const Origin& origin, Poll& poll, Age age, Now now) {
    // What is good is as old as its answer, however late it was sent again.
    if (age.quality == Quality::kLive && age.as_of) {
        poll.heard = std::min(poll.heard, age.as_of->mono);
    }
    if (const auto silence = silence_in(origin.head, poll.heard, poll.state, now)) {
        if (age.as_of) {
            poll.state.age.as_of = age.as_of;
            poll.state.age.uncertain = age.uncertain;
        }
        return fail(poll.state, *silence, "producer");
    }
    return set(poll.state, std::move(age));
}

std::optional<Mono> Freshness::silent_at(Mono heard, const PollState& state) {
    if (is_state_poll(state.report.poll)) {
        return heard + kHeadSilence;
    }
    if (state.report.interval <= Millis{0}) {
        return std::nullopt;
    }
    return heard + poll_silence(state.report.interval);
}

std::string_view Freshness::silence_of(const PollState& state) {
    return is_state_poll(state.report.poll) ? "PRODUCER_SILENT" : "POLL_SILENT";
}

std::optional<Change> Freshness::set(PollState& state, Age age) {
    const bool news = age.quality != state.age.quality || age.reason != state.age.reason ||
                      age.source != state.age.source;
    state.age = std::move(age);
    if (!news) {
        return std::nullopt;
    }
    return Change{state.origin, state.report.poll, state.report.topic, state.age};
}

std::optional<Change> Freshness::fail(PollState& state, std::string_view reason,
                                      std::string_view source) {
    Age age;
    age.quality = had_value(state) ? Quality::kStale : Quality::kDown;
    keep_as_of(age, state.age);
    age.reason = reason;
    age.source = source;
    return set(state, std::move(age));
}

}  // namespace sigmacast::broker

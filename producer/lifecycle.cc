#include "producer/lifecycle.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cstdint>
#include <optional>
#include <utility>

#include "producer/differ.h"
#include "producer/mapping.h"

namespace sigmacast::producer {
namespace {

namespace json = boost::json;

constexpr std::string_view kAgents = "agent.status";
constexpr std::string_view kScheduler = "scheduler.metrics";
constexpr std::string_view kRecovery = "recovery.status";

using Events = std::vector<LifecycleEvent>;

/// The watched topic of that name, as a constant; empty where it is not watched.
std::string_view watched(std::string_view topic) {
    for (const std::string_view known : {kAgents, kScheduler, kRecovery}) {
        if (topic == known) {
            return known;
        }
    }
    return {};
}

std::string_view text_of(const json::object& object, std::string_view name) {
    const json::value* value = object.if_contains(name);
    return value != nullptr && value->is_string() ? std::string_view(value->get_string())
                                                  : std::string_view();
}

const json::object& object_of(const json::object& object, std::string_view name) {
    static const json::object kNone;
    const json::value* value = object.if_contains(name);
    return value != nullptr && value->is_object() ? value->get_object() : kNone;
}

/// By how much a counter rose; nothing where it did not, or is missing from either.
std::optional<std::int64_t> rise(const json::object& before, const json::object& after,
                                 std::string_view name) {
    const json::value* a = before.if_contains(name);
    const json::value* b = after.if_contains(name);
    if (a == nullptr || b == nullptr || !a->is_number() || !b->is_number()) {
        return std::nullopt;
    }
    constexpr double kExact = 9007199254740992.0;  // 2^53, beyond which a double skips numbers.
    const double by = b->to_number<double>() - a->to_number<double>();
    return by >= 1 && by <= kExact ? std::optional(static_cast<std::int64_t>(by)) : std::nullopt;
}

bool both_have(const json::object& before, const json::object& after, std::string_view name) {
    return before.contains(name) && after.contains(name);
}

void copy(const json::object& from, std::string_view name, json::object& to,
          std::string_view as = {}) {
    const json::value* value = from.if_contains(name);
    if (value != nullptr && !value->is_null()) {
        to[as.empty() ? name : as] = *value;
    }
}

// Agents ------------------------------------------------------------------------------------------

enum class Condition { kUnknown, kWell, kRecovering, kFailed, kStopped };

Condition condition_of(const json::object& agent) {
    const std::string_view status = text_of(agent, "status");
    if (status.empty()) {
        return Condition::kUnknown;
    }
    if (status == "offline" || status == "stopped") {
        return Condition::kStopped;
    }
    if (status == "error" || status == "failed") {
        return Condition::kFailed;
    }
    return status == "recovering" || status == "restarting" ? Condition::kRecovering
                                                            : Condition::kWell;
}

bool is_busy(const json::object& agent) {
    const std::string_view status = text_of(agent, "status");
    return status == "busy" || status == "active";
}

/// What one agent's two entries show.
class AgentChange {
 public:
    AgentChange(std::string_view id, const json::object& before, const json::object& after,
                Events& out)
        : id_(id), before_(before), after_(after), out_(out) {}

    void tell() {
        tell_condition();
        tell_task_end();
        tell_assigned();
    }
    void tell_started() {
        add("agent.started");
        tell_assigned();
    }
    void tell_stopped() { add("agent.stopped"); }

 private:
    json::object& add(std::string_view topic) {
        const json::object& newest = after_.empty() ? before_ : after_;
        json::object data{{"agent_id", id_}};
        copy(newest, "codename", data);
        copy(newest, "status", data);
        out_.push_back({topic, std::move(data)});
        return out_.back().data;
    }

    void tell_condition() {
        const Condition from = condition_of(before_);
        const Condition to = condition_of(after_);
        if (from == to || from == Condition::kUnknown || to == Condition::kUnknown) {
            return;
        }
        if (to == Condition::kRecovering) {
            add("agent.recovery_started");
        } else if (from == Condition::kRecovering && to != Condition::kWell) {
            add("agent.recovery_failed");
        } else if (to == Condition::kWell && from != Condition::kStopped) {
            add("agent.recovery_success");
        } else if (to == Condition::kWell) {
            add("agent.started");
        }
        if (to == Condition::kStopped) {
            add("agent.stopped");
        }
    }

    void tell_task_end() {
        if (const auto tasks = rise(before_, after_, "tasks_completed")) {
            json::object& data = add("agent.task_completed");
            data["tasks"] = *tasks;
            copy(after_, "tasks_completed", data);
            if (*tasks == 1 && (changed("current_task_id") || turned("completed"))) {
                add_task(data, before_);  // Of more than one it is not known which.
            }
        } else if (!both_have(before_, after_, "tasks_completed") && turned("completed")) {
            json::object& data = add("agent.task_completed");
            data["tasks"] = 1;
            add_task(data, after_);
        }
        if (turned("failed") || turned("error")) {
            json::object& data = add("agent.task_failed");
            data["tasks"] = 1;
            add_task(data, after_);
        }
    }

    void tell_assigned() {
        const bool named =
            changed("current_task_id") && !text_of(after_, "current_task_id").empty();
        const bool busy = !after_.contains("current_task_id") &&
                          text_of(before_, "status") == "idle" && is_busy(after_);
        if (named || busy) {
            add_task(add("agent.task_assigned"), after_);
        }
    }

    [[nodiscard]] bool changed(std::string_view name) const {
        return text_of(before_, name) != text_of(after_, name);
    }
    /// Whether the task's status has become this one; of a task that came and ended in between,
    /// too.
    [[nodiscard]] bool turned(std::string_view status) const {
        return text_of(after_, "task_status") == status && !before_.empty() &&
               (changed("task_status") || changed("current_task_id"));
    }
    static void add_task(json::object& data, const json::object& agent) {
        if (!text_of(agent, "current_task_id").empty()) {
            copy(agent, "current_task_id", data, "task_id");
            copy(agent, "task_type", data);
        }
    }

    std::string_view id_;
    const json::object& before_;
    const json::object& after_;
    Events& out_;
};

/// Whether the list held every agent that the engine has.
bool is_whole(const json::object& data) {
    const json::value* total = data.if_contains("total_agents");
    return total == nullptr || !total->is_number() ||
           total->to_number<double>() <= static_cast<double>(object_of(data, "agents").size());
}

void compare_agents(const json::object& before, const json::object& after, Events& out) {
    const json::object& old = object_of(before, "agents");
    const json::object& now = object_of(after, "agents");
    const json::object none;
    for (const auto& [id, value] : now) {
        if (!value.is_object()) {
            continue;
        }
        const json::value* known = old.if_contains(id);
        if (known != nullptr && known->is_object()) {
            AgentChange(id, known->get_object(), value.get_object(), out).tell();
        } else if (is_whole(before) && condition_of(value.get_object()) != Condition::kStopped) {
            AgentChange(id, none, value.get_object(), out).tell_started();
        }
    }
    for (const auto& [id, value] : old) {
        if (value.is_object() && !now.contains(id) && is_whole(after) &&
            condition_of(value.get_object()) != Condition::kStopped) {
            AgentChange(id, value.get_object(), none, out).tell_stopped();
        }
    }
}

// Counters ----------------------------------------------------------------------------------------

/// One event for a counter that rose: `amount` says by how much.
void tell_rise(const json::object& before, const json::object& after, std::string_view counter,
               std::string_view topic, std::string_view amount, Events& out) {
    if (const auto by = rise(before, after, counter)) {
        json::object data{{amount, *by}};
        copy(after, counter, data);
        out.push_back({topic, std::move(data)});
    }
}

void compare_recovery(const json::object& before, const json::object& after, Events& out) {
    tell_rise(before, after, "total_restarts", "agent.restarted", "restarts", out);
    tell_rise(before, after, "dead_letter_queue_size", "dead_letter.queued", "tasks", out);
    json::object scores;
    const json::object& old = object_of(before, "health_scores");
    for (const auto& [agent, score] : object_of(after, "health_scores")) {
        const json::value* known = old.if_contains(agent);
        if (known == nullptr || *known != score) {
            scores[agent] = score;
        }
    }
    constexpr std::array<std::string_view, 3> kCounts{"agents_healthy", "agents_degraded",
                                                      "agents_failed"};
    const bool moved = std::any_of(kCounts.begin(), kCounts.end(), [&](std::string_view name) {
        return both_have(before, after, name) && before.at(name) != after.at(name);
    });
    if (moved || !scores.empty()) {
        json::object data;
        for (const std::string_view name : kCounts) {
            copy(after, name, data);
        }
        data["health_scores"] = std::move(scores);
        out.push_back({"agent.health_check", std::move(data)});
    }
}

}  // namespace

Events Lifecycle::compare(std::string_view topic, const json::object& before,
                          const json::object& after) const {
    Events out;
    if (topic == kAgents) {
        compare_agents(before, after, out);
    } else if (topic == kRecovery) {
        compare_recovery(before, after, out);
    } else {
        tell_rise(before, after, "tasks_scheduled", "task.queued", "tasks", out);
        tell_rise(before, after, "tasks_dispatched", "task.dispatched", "tasks", out);
        // What the agents tell, with their names, is not told a second time.
        if (!agents_have("tasks_completed")) {
            tell_rise(before, after, "tasks_completed", "agent.task_completed", "tasks", out);
        }
        if (!agents_have("task_status")) {
            tell_rise(before, after, "tasks_failed", "agent.task_failed", "tasks", out);
        }
    }
    return out;
}

bool Lifecycle::agents_have(std::string_view member) const {
    return std::any_of(bases_.begin(), bases_.end(), [&](const auto& entry) {
        const json::object& agents = object_of(entry.second.data, "agents");
        return entry.second.topic == kAgents &&
               std::any_of(agents.begin(), agents.end(), [&](const json::key_value_pair& agent) {
                   return agent.value().is_object() && agent.value().get_object().contains(member);
               });
    });
}

Events Lifecycle::inherit(const std::string& poll, std::string_view topic,
                          const json::object& data) {
    const std::string_view known = watched(topic);
    if (known.empty()) {
        return {};
    }
    const auto [it, added] = bases_.try_emplace(poll, Base{known, data, false});
    const bool first = std::exchange(it->second.first, false);
    return first ? compare(known, data, it->second.data) : Events();
}

void Lifecycle::keep_unlisted(const std::string& poll, std::string_view topic,
                              json::object& data) const {
    const auto base = bases_.find(poll);
    json::value* list = data.if_contains("agents");
    if (topic != kAgents || base == bases_.end() || list == nullptr || !list->is_object() ||
        is_whole(data)) {
        return;
    }
    for (const auto& [id, agent] : object_of(base->second.data, "agents")) {
        list->get_object().emplace(id, agent);
    }
    count_agents(data);
}

Events Lifecycle::take(const std::string& poll, std::string_view topic, const json::object& data) {
    const std::string_view known = watched(topic);
    if (known.empty()) {
        return {};
    }
    const auto [it, added] = bases_.try_emplace(poll, Base{known, data, true});
    if (added) {
        return {};
    }
    Base& base = it->second;
    Events events = compare(known, base.data, data);
    base.first = base.first && same_value(base.data, data, {});
    base.data = data;
    return events;
}

}  // namespace sigmacast::producer

#include "producer/mapping.h"

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <cmath>
#include <set>
#include <utility>

#include "common/codec.h"

namespace sigmacast::producer {
namespace {

namespace json = boost::json;

constexpr std::size_t kKeyBytesMax = 256;

/// Thrown inside this file alone, and turned into an error by map_answer().
struct Malformed {
    std::string text;
};

enum class Type { kText, kNumber, kInteger };

struct Field {
    std::string_view from;
    std::string_view to;
    Type type;
};

constexpr std::array kSystemFields{
    Field{"hostname", "hostname", Type::kText},
    Field{"uptime", "uptime", Type::kNumber},
    Field{"cpu_usage", "cpu_usage", Type::kNumber},
};
constexpr std::array kMemoryFields{
    Field{"used_percent", "memory_pct", Type::kNumber},
    Field{"used", "memory_used", Type::kInteger},
    Field{"total", "memory_total", Type::kInteger},
};
constexpr std::array kLoadFields{
    Field{"load1", "load1", Type::kNumber},
    Field{"load5", "load5", Type::kNumber},
    Field{"load15", "load15", Type::kNumber},
};
constexpr std::array kJobFields{
    Field{"job_id", "job_id", Type::kText},
    Field{"status", "status", Type::kText},
    Field{"job_type", "job_type", Type::kText},
    Field{"priority", "priority", Type::kText},
    Field{"phase", "phase", Type::kText},
    Field{"progress", "progress", Type::kNumber},
    Field{"current_ratio", "compression_ratio", Type::kNumber},
    Field{"elapsed_seconds", "elapsed_seconds", Type::kNumber},
    Field{"eta_seconds", "eta_seconds", Type::kNumber},
    Field{"bytes_processed", "bytes_processed", Type::kInteger},
    Field{"bytes_total", "bytes_total", Type::kInteger},
    Field{"input_path", "input_path", Type::kText},
    Field{"output_path", "output_path", Type::kText},
};
constexpr std::array kTotalFields{
    Field{"total_running", "total_running", Type::kInteger},
    Field{"total_pending", "total_pending", Type::kInteger},
    Field{"total_jobs", "total_jobs", Type::kInteger},
};
constexpr std::array kAgentFields{
    Field{"agent_id", "id", Type::kText},
    Field{"name", "codename", Type::kText},
    Field{"status", "status", Type::kText},
    Field{"specialty", "specialization", Type::kText},
    Field{"tier", "tier", Type::kText},
    Field{"tasks_completed", "tasks_completed", Type::kInteger},
    Field{"success_rate", "success_rate", Type::kNumber},
    Field{"memory_usage_mb", "memory_usage", Type::kNumber},
    Field{"avg_response_time_ms", "average_latency", Type::kNumber},
    Field{"current_task_id", "current_task_id", Type::kText},
    Field{"task_type", "task_type", Type::kText},
    Field{"task_progress", "task_progress", Type::kNumber},
    Field{"task_status", "task_status", Type::kText},
};

[[noreturn]] void malformed(std::string_view path, std::string_view what) {
    throw Malformed{std::string(path) + " is not " + std::string(what)};
}

// The path comes by value: g++ 14 takes a reference to a temporary for what is returned.
const json::object& object_at(const json::value& value, std::string_view path) {
    if (!value.is_object()) {
        malformed(path, "an object");
    }
    return value.get_object();
}

const json::array& array_at(const json::value* value, std::string_view path) {
    if (value == nullptr || !value->is_array()) {
        malformed(path, "an array");
    }
    return value->get_array();
}

/// The member, or nullptr where it is missing or null.
const json::value* member(const json::object& object, std::string_view name) {
    const json::value* value = object.if_contains(name);
    return value == nullptr || value->is_null() ? nullptr : value;
}

json::value converted(const json::value& value, Type type, const std::string& path) {
    constexpr double kExact =
        9007199254740992.0;  // 2^53: whole numbers up to here are exact in a double.
    if (type == Type::kText) {
        if (!value.is_string()) {
            malformed(path, "a string");
        }
        return value;
    }
    if (!value.is_number()) {
        malformed(path, "a number");
    }
    if (type == Type::kInteger && value.is_double()) {
        const double number = value.get_double();
        if (std::abs(number) > kExact) {
            malformed(path, "a whole number");
        }
        return static_cast<std::int64_t>(std::llround(number));
    }
    return value;
}

template <class Fields>
void take(const json::object& from, const Fields& fields, const std::string& path,
          json::object& to) {
    for (const Field& field : fields) {
        if (const json::value* value = member(from, field.from)) {
            to[field.to] = converted(*value, field.type, path + "." + std::string(field.from));
        }
    }
}

std::string key_at(const json::object& object, std::string_view name, const std::string& path) {
    const json::value* value = member(object, name);
    const std::string where = path + "." + std::string(name);
    if (value == nullptr || !value->is_string()) {
        malformed(where, "a string");
    }
    const json::string& text = value->get_string();
    if (text.empty() || text.size() > kKeyBytesMax) {
        malformed(where, "1 to " + std::to_string(kKeyBytesMax) + " bytes long");
    }
    return {text.data(), text.size()};
}

std::string item_path(std::string_view array, std::size_t index) {
    return std::string(array) + "[" + std::to_string(index) + "]";
}

Mapped one(std::string key, json::object data) {
    Mapped mapped;
    mapped.keyed = !key.empty();
    mapped.values.push_back({std::move(key), std::move(data)});
    return mapped;
}

Mapped map_as_is(const PollSettings& poll, const json::value& result) {
    json::object data;
    if (result.is_array()) {
        data["items"] = result;
    } else if (!result.is_object()) {
        data["value"] = result;
    } else {
        for (const auto& [name, value] : result.get_object()) {
            const auto renamed = poll.rename.find(std::string(name));
            if (renamed != poll.rename.end()) {
                data[renamed->second] = value;
            } else if (name != "timestamp") {  // The time of the answer is the report's as_of.
                data[name] = value;
            }
        }
    }
    return one(poll.key, std::move(data));
}

constexpr std::array<std::string_view, 5> kSystemRequired = {"hostname", "uptime", "cpu_usage",
                                                             "memory_usage", "load_average"};

Mapped map_system(const PollSettings& poll, const json::value& result) {
    const json::object& answer = object_at(result, "result");
    for (const std::string_view required : kSystemRequired) {
        if (member(answer, required) == nullptr) {
            // Part of an answer would take the place of the whole one before it.
            throw Malformed{"result lacks " + std::string(required)};
        }
    }
    json::object data;
    take(answer, kSystemFields, "result", data);
    take(object_at(answer.at("memory_usage"), "result.memory_usage"), kMemoryFields,
         "result.memory_usage", data);
    json::object loads;
    take(object_at(answer.at("load_average"), "result.load_average"), kLoadFields,
         "result.load_average", loads);
    data["load_average"] = std::move(loads);
    if (const json::value* disks = member(answer, "disk_usage")) {
        if (!array_at(disks, "result.disk_usage").empty()) {
            data["disks"] = *disks;
        }
    }
    return one(poll.key, std::move(data));
}

std::int64_t count_of(const json::object& summary, std::string_view name) {
    const json::value* count = summary.if_contains(name);
    return count != nullptr && count->is_int64() ? count->get_int64() : 0;
}

bool lists_pending(const PollSettings& poll) {
    const Result<json::value> params = parse_json(poll.params);
    const json::value* include = params && params->is_object()
                                     ? params->get_object().if_contains("include_pending")
                                     : nullptr;
    return include == nullptr || !include->is_bool() || include->get_bool();
}

/// Whether the list holds every job that runs or waits. `total_jobs` is no measure of that: it
/// counts ended jobs, too.
bool is_complete(const PollSettings& poll, const json::object& summary, std::size_t listed) {
    const std::int64_t pending = lists_pending(poll) ? count_of(summary, "total_pending") : 0;
    return count_of(summary, "total_running") + pending <= static_cast<std::int64_t>(listed);
}

Mapped map_jobs(const PollSettings& poll, const json::value& result, Now now) {
    const json::object& answer = object_at(result, "result");
    const json::value* list = member(answer, "jobs");
    const json::array& jobs = array_at(list, "result.jobs");
    Mapped mapped;
    mapped.keyed = true;
    json::array summary_jobs;
    std::set<std::string> ids;
    for (std::size_t index = 0; index < jobs.size(); ++index) {
        const std::string path = item_path("result.jobs", index);
        const json::object& job = object_at(jobs[index], path);
        std::string id = key_at(job, "job_id", path);
        if (!ids.insert(id).second) {
            throw Malformed{path + ".job_id repeats " + id};
        }
        json::object data;
        take(job, kJobFields, path, data);
        json::object entry = data;
        entry["timestamp"] = unix_seconds(now.wall);
        summary_jobs.emplace_back(std::move(entry));
        mapped.values.push_back({std::move(id), std::move(data)});
    }
    json::object summary;
    summary["jobs"] = std::move(summary_jobs);
    take(answer, kTotalFields, "result", summary);
    mapped.complete = is_complete(poll, summary, jobs.size());
    const json::value* total = summary.if_contains("total_jobs");
    if (total == nullptr) {
        summary["total_jobs"] = jobs.size();
    }
    mapped.values.push_back({"", std::move(summary)});
    return mapped;
}

json::object map_agent(const json::object& agent, const std::string& path, Now now) {
    json::object entry;
    take(agent, kAgentFields, path, entry);
    if (const json::value* active = member(agent, "last_active")) {
        if (active->is_string()) {
            const Result<Wall> wall = parse_rfc3339(active->get_string());
            if (!wall) {
                malformed(path + ".last_active", "a time as RFC 3339 writes it");
            }
            entry["last_active"] = unix_seconds(*wall);
        } else {
            entry["last_active"] = converted(*active, Type::kInteger, path + ".last_active");
        }
    }
    entry["timestamp"] = unix_seconds(now.wall);
    return entry;
}

/// How many agents the engine says there are, where its list is part of an answer that tells.
std::int64_t agents_in_all(const json::object& answer) {
    return std::max(count_of(answer, "total_agents"), count_of(answer, "total"));
}

Mapped map_agents(const PollSettings& poll, const json::value& result, Now now) {
    const json::object* wrapped = result.if_object();
    const json::value* list = wrapped == nullptr ? &result : wrapped->if_contains("agents");
    const json::array& items = array_at(list, "result");
    json::object agents;
    for (std::size_t index = 0; index < items.size(); ++index) {
        const std::string path = item_path("result", index);
        const json::object& agent = object_at(items[index], path);
        const std::string id = key_at(agent, "agent_id", path);
        if (!agents.emplace(id, map_agent(agent, path, now)).second) {
            throw Malformed{path + ".agent_id repeats " + id};
        }
    }
    json::object data;
    data["total_agents"] = wrapped == nullptr ? 0 : agents_in_all(*wrapped);
    data["agents"] = std::move(agents);
    count_agents(data);
    Mapped mapped = one(poll.key, std::move(data));
    mapped.complete =
        wrapped == nullptr || agents_in_all(*wrapped) <= static_cast<std::int64_t>(items.size());
    return mapped;
}

/// The list of a method named storage.pools.list is `pools` in the data, unless the poll's key says
/// otherwise.
Mapped map_storage(const PollSettings& poll, const json::value& result) {
    const std::string name = poll.key.empty() ? "pools" : poll.key;
    const json::object* wrapped = result.if_object();
    const json::value* list = wrapped == nullptr ? &result : wrapped->if_contains(name);
    const std::string path = wrapped == nullptr ? "result" : "result." + name;
    const json::array& items = array_at(list, path);
    for (std::size_t index = 0; index < items.size(); ++index) {
        (void)object_at(items[index], item_path(path, index));
    }
    json::object data;
    data[name] = items;
    return one(poll.key, std::move(data));
}

Mapped mapped_by(const PollSettings& poll, const json::value& result, Now now) {
    if (poll.mapper == "system") {
        return map_system(poll, result);
    }
    if (poll.mapper == "jobs") {
        return map_jobs(poll, result, now);
    }
    if (poll.mapper == "agents") {
        return map_agents(poll, result, now);
    }
    if (poll.mapper == "storage") {
        return map_storage(poll, result);
    }
    return map_as_is(poll, result);
}

}  // namespace

bool is_mapper(std::string_view name) {
    constexpr std::array<std::string_view, 5> kMappers{"as_is", "system", "jobs", "agents",
                                                       "storage"};
    return std::find(kMappers.begin(), kMappers.end(), name) != kMappers.end();
}

Result<Mapped> map_answer(const PollSettings& poll, const json::value& result, Now now) {
    try {
        return mapped_by(poll, result, now);
    } catch (const Malformed& what) {
        return Error{Errc::kInvalid, what.text};
    }
}

void count_agents(json::object& data) {
    const json::object& agents = data.at("agents").get_object();
    std::int64_t active = 0;
    std::int64_t idle = 0;
    std::int64_t error = 0;
    for (const auto& [id, agent] : agents) {
        const json::value* status =
            agent.is_object() ? agent.get_object().if_contains("status") : nullptr;
        const std::string_view name = status != nullptr && status->is_string()
                                          ? std::string_view(status->get_string())
                                          : std::string_view();
        active += name == "busy" || name == "active" ? 1 : 0;
        idle += name == "idle" ? 1 : 0;
        error += name == "error" ? 1 : 0;
    }
    const auto listed = static_cast<std::int64_t>(agents.size());
    data["total_agents"] = std::max(count_of(data, "total_agents"), listed);
    data["active_agents"] = active;
    data["idle_agents"] = idle;
    data["error_agents"] = error;
}

bool has_ends(const PollSettings& poll) {
    return poll.mapper == "jobs";
}

json::object job_end(json::object last_known, const json::object& answer) {
    for (const auto& [name, value] : answer) {
        if (!value.is_null() && name != "timestamp") {
            last_known[name == "current_ratio" ? json::string_view("compression_ratio")
                                               : json::string_view(name)] = value;
        }
    }
    return last_known;
}

bool still_runs(const json::object& answer) {
    const json::value* status = answer.if_contains("status");
    if (status == nullptr || !status->is_string()) {
        return false;
    }
    const std::string_view text = status->get_string();
    return text == "running" || text == "pending" || text == "queued" || text == "paused";
}

}  // namespace sigmacast::producer

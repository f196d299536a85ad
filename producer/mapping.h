// What an engine's answer becomes: the values of a poll, one for each key. The mappers are named in
// the configuration
// (`mapper`): as_is, system, jobs, agents, storage; common/EVENTS.md lists the fields they make.
// Pure.
//
// A member of the wrong type makes the whole answer unusable (the error names it), so that a
// partial value never replaces a good one. A member that is missing or null is left out: nothing is
// invented.
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "common/settings.h"

namespace sigmacast::producer {

struct MappedValue {
    std::string key;
    boost::json::object data;
};

struct Mapped {
    std::vector<MappedValue>
        values;            // In the order in which they are to be published: a summary comes last.
    bool keyed = false;    // The values have keys: together they are the poll's whole set.
    bool complete = true;  // False where the engine cut its list off, and says so.
};

/// Whether there is a mapper of that name.
bool is_mapper(std::string_view name);

/// Errors: kInvalid, with a text that names the member.
Result<Mapped> map_answer(const PollSettings& poll, const boost::json::value& result, Now now);

/// Counts the agents of agent.status anew: total_agents (which stays above the number of those that
/// are listed, where the engine has more) and those that are active, idle or in error.
void count_agents(boost::json::object& data);

/// Whether a poll's mapper gives each key an end of its own, which is to be asked for when a list
/// lacks the key.
bool has_ends(const PollSettings& poll);

/// The last value of a job: what was last known of it, overlaid with the answer to
/// compression.queue.status.
boost::json::object job_end(boost::json::object last_known, const boost::json::object& answer);

/// Whether that answer says that the job has not ended after all.
bool still_runs(const boost::json::object& answer);

}  // namespace sigmacast::producer

%% What a plug-in can ask of Busbar: settings, log lines, and rows of tables.
-module(busbar).
-export([setting/1, log/2, get/2, scan/2, query/3]).

%% A value of `settings` in plugin.yaml; undefined if there is none.
setting(Name) -> maps:get(Name, persistent_term:get(busbar_settings), undefined).

%% Writes a line to the plug-in's log; the level is debug, info, warning or error.
log(Level, Message) ->
    busbar_worker:write(#{type => log, level => Level, message => unicode:characters_to_binary(Message)}).

%% The row of a table whose columns have these values; undefined if there is none.
get(Table, Where) ->
    case busbar_worker:ask(#{table => Table, where => Where, limit => 1}) of
        [Row | _] -> Row;
        [] -> undefined
    end.

%% The rows of a table whose columns have these values.
scan(Table, Where) -> busbar_worker:ask(#{table => Table, where => Where}).

%% The rows of a query over the file of a relational table; `?` stands for the parameters in order.
query(Table, Sql, Parameters) ->
    busbar_worker:ask(#{table => Table, sql => Sql, parameters => Parameters}).

with counts as (
  select auction, window_start, window_end, count(*) as num from bid
  group by hop(interval '10 seconds', interval '2 seconds'), auction
)
select auction, num, window_start, window_end
from (select *, rank() over (partition by window_end order by num desc) as place from counts) as ranked
where place = 1

with finals as (
  select auction.id, category, max(price) as final
  from bid join auction on auction = id
  where bid.date_time between auction.date_time and expires
  group by auction.id, category
)
select category, timestamp '2026-03-01T00:00:00Z' as day, avg(final) as final from finals group by category

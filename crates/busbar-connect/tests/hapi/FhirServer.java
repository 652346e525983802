import ca.uhn.fhir.context.FhirContext;
import ca.uhn.fhir.model.api.annotation.*;
import ca.uhn.fhir.parser.StrictErrorHandler;
import ca.uhn.fhir.rest.annotation.*;
import ca.uhn.fhir.rest.api.MethodOutcome;
import ca.uhn.fhir.rest.api.SortSpec;
import ca.uhn.fhir.rest.param.DateRangeParam;
import ca.uhn.fhir.rest.param.TokenParam;
import ca.uhn.fhir.rest.api.server.IBundleProvider;
import ca.uhn.fhir.rest.server.FifoMemoryPagingProvider;
import ca.uhn.fhir.rest.server.SimpleBundleProvider;
import ca.uhn.fhir.rest.server.IResourceProvider;
import ca.uhn.fhir.rest.server.RestfulServer;
import ca.uhn.fhir.rest.server.exceptions.*;
import ca.uhn.fhir.model.api.ResourceMetadataKeyEnum;
import ca.uhn.fhir.model.valueset.BundleEntryTransactionMethodEnum;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.*;
import org.eclipse.jetty.ee10.servlet.ServletContextHandler;
import org.eclipse.jetty.ee10.servlet.ServletHolder;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;
import org.hl7.fhir.instance.model.api.IBaseResource;
import org.hl7.fhir.r4.model.*;

/** HAPI's own server for patients that are kept in memory: create, update, delete, history, search, with conditions, and Bundles. */
public class FhirServer {
    static final FhirContext CONTEXT = FhirContext.forR4();
    static int port;

    public static void main(String[] arguments) throws Exception {
        port = Integer.parseInt(arguments[0]);
        CONTEXT.setParserErrorHandler(new StrictErrorHandler());
        RestfulServer fhir = new RestfulServer(CONTEXT);
        fhir.setResourceProviders(new Patients());
        fhir.setPlainProviders(new Bundles());
        FifoMemoryPagingProvider paging = new FifoMemoryPagingProvider(10);
        paging.setDefaultPageSize(10);
        paging.setMaximumPageSize(10);
        fhir.setPagingProvider(paging);
        Server server = new Server();
        ServerConnector connector = new ServerConnector(server);
        connector.setHost("127.0.0.1");
        connector.setPort(port);
        server.addConnector(connector);
        ServletContextHandler handler = new ServletContextHandler();
        handler.addServlet(new ServletHolder(fhir), "/fhir/*");
        server.setHandler(handler);
        server.start();
        server.join();
    }

    public static class Patients implements IResourceProvider {
        private final Map<String, List<Patient>> versions = new LinkedHashMap<>();
        private long number;
        private long last;

        @Override
        public Class<Patient> getResourceType() {
            return Patient.class;
        }

        private boolean isDeleted(Patient patient) {
            return ResourceMetadataKeyEnum.DELETED_AT.get(patient) != null;
        }

        private Patient newest(String id) {
            List<Patient> all = versions.get(id);
            return all == null ? null : all.get(all.size() - 1);
        }

        private MethodOutcome store(String id, Patient patient) {
            List<Patient> all = versions.computeIfAbsent(id, key -> new ArrayList<>());
            boolean isNew = all.isEmpty() || isDeleted(all.get(all.size() - 1));
            // No two of one instant, so that their order is known.
            last = Math.max(last + 1, System.currentTimeMillis());
            String version = String.valueOf(all.size() + 1);
            patient.setId(new IdType("Patient", id, version));
            patient.getMeta().setVersionId(version).setLastUpdated(new Date(last));
            ResourceMetadataKeyEnum.ENTRY_TRANSACTION_METHOD.put(
                patient, isNew ? BundleEntryTransactionMethodEnum.POST : BundleEntryTransactionMethodEnum.PUT);
            all.add(patient);
            return new MethodOutcome(patient.getIdElement(), isNew).setResource(patient);
        }

        private MethodOutcome remove(String id, String version) {
            Patient there = newest(id);
            if (there == null || isDeleted(there)) {
                throw new ResourceNotFoundException(new IdType("Patient", id));
            }
            checkVersion(there, version);
            Patient gone = new Patient();
            store(id, gone);
            ResourceMetadataKeyEnum.DELETED_AT.put(gone, new InstantType(gone.getMeta().getLastUpdated()));
            ResourceMetadataKeyEnum.ENTRY_TRANSACTION_METHOD.put(gone, BundleEntryTransactionMethodEnum.DELETE);
            return new MethodOutcome(gone.getIdElement());
        }

        private void checkVersion(Patient there, String version) {
            if (version != null && (there == null || !version.equals(there.getMeta().getVersionId()))) {
                throw new PreconditionFailedException("another version is there");
            }
        }

        /** The one patient that a condition finds: {@code Patient?identifier=system|value}. */
        private Patient found(String condition) {
            String query = java.net.URLDecoder.decode(
                condition.substring(condition.indexOf('?') + 1), java.nio.charset.StandardCharsets.UTF_8);
            String[] parts = query.substring("identifier=".length()).replace("\\|", "\u0000").split("\\|", 2);
            TokenParam identifier = new TokenParam(parts[0], parts[1].replace("\u0000", "|").replace("\\,", ","));
            List<IBaseResource> all = search(identifier, null, null);
            if (all.size() > 1) {
                throw new PreconditionFailedException("several patients are found");
            }
            return all.isEmpty() ? null : (Patient) all.get(0);
        }

        private void check(Patient patient) {
            if (patient.getName().stream().anyMatch(name -> "Refused".equals(name.getFamily()))) {
                OperationOutcome outcome = new OperationOutcome();
                outcome.addIssue().setSeverity(OperationOutcome.IssueSeverity.ERROR).setCode(OperationOutcome.IssueType.VALUE)
                    .setDiagnostics("nobody has this name").addExpression("Patient.name[0].family");
                throw new UnprocessableEntityException(CONTEXT, outcome);
            }
        }

        @Read
        public synchronized Patient read(@IdParam IdType id) {
            Patient there = newest(id.getIdPart());
            if (there == null) {
                throw new ResourceNotFoundException(id);
            }
            if (isDeleted(there)) {
                throw new ResourceGoneException(id);
            }
            return there;
        }

        @Search
        public synchronized List<IBaseResource> search(
                @OptionalParam(name = "identifier") TokenParam identifier,
                @OptionalParam(name = "_lastUpdated") DateRangeParam updated,
                @Sort SortSpec sort) {
            List<IBaseResource> found = new ArrayList<>();
            for (String id : versions.keySet()) {
                Patient patient = newest(id);
                Date at = patient.getMeta().getLastUpdated();
                boolean fits = !isDeleted(patient)
                    && (identifier == null || patient.getIdentifier().stream().anyMatch(one ->
                        identifier.getSystem().equals(one.getSystem()) && identifier.getValue().equals(one.getValue())))
                    && (updated == null
                        || (updated.getLowerBoundAsInstant() == null || !at.before(updated.getLowerBoundAsInstant()))
                        && (updated.getUpperBoundAsInstant() == null || at.before(updated.getUpperBoundAsInstant())));
                if (fits) {
                    found.add(patient);
                }
            }
            if (sort != null && "_lastUpdated".equals(sort.getParamName())) {
                found.sort(Comparator.comparing(one -> ((Patient) one).getMeta().getLastUpdated()));
            }
            return found;
        }

        @History
        public synchronized IBundleProvider history(@Since InstantType since, @Offset Integer offset) {
            List<Patient> all = new ArrayList<>();
            versions.values().forEach(all::addAll);
            if (since != null) {
                all.removeIf(one -> one.getMeta().getLastUpdated().before(since.getValue()));
            }
            all.sort(Comparator.comparing((Patient one) -> one.getMeta().getLastUpdated()).reversed());
            // HAPI makes the links to pages of a history, and leaves the pages to the one that keeps the resources.
            int from = offset == null ? 0 : Math.min(offset, all.size());
            SimpleBundleProvider page = new SimpleBundleProvider(new ArrayList<>(all.subList(from, all.size())));
            page.setSize(all.size());
            return page;
        }

        @Create
        public synchronized MethodOutcome create(@ResourceParam Patient patient, @ConditionalUrlParam String condition) {
            check(patient);
            Patient there = condition == null ? null : found(condition);
            if (there != null) {
                return new MethodOutcome(there.getIdElement(), false);
            }
            return store("h" + ++number, patient);
        }

        @Update
        public synchronized MethodOutcome update(
                @IdParam IdType id, @ResourceParam Patient patient, @ConditionalUrlParam String condition) {
            check(patient);
            if (condition != null) {
                Patient there = found(condition);
                return store(there == null ? "h" + ++number : there.getIdElement().getIdPart(), patient);
            }
            Patient there = newest(id.getIdPart());
            checkVersion(there, id.getVersionIdPart());
            return store(id.getIdPart(), patient);
        }

        @Delete
        public synchronized MethodOutcome delete(@IdParam IdType id, @ConditionalUrlParam String condition) {
            if (condition != null) {
                Patient there = found(condition);
                if (there == null) {
                    throw new ResourceNotFoundException("nothing is found");
                }
                return remove(there.getIdElement().getIdPart(), null);
            }
            return remove(id.getIdPart(), id.getVersionIdPart());
        }
    }

    /** Each entry of a Bundle is a request to the server itself. */
    public static class Bundles {
        private final HttpClient client = HttpClient.newHttpClient();

        @Transaction
        public Bundle bundle(@TransactionParam Bundle bundle) throws Exception {
            if (bundle.getType() != Bundle.BundleType.BATCH) {
                throw new InvalidRequestException("only batches are taken here");
            }
            Bundle answers = new Bundle().setType(Bundle.BundleType.BATCHRESPONSE);
            for (Bundle.BundleEntryComponent entry : bundle.getEntry()) {
                Bundle.BundleEntryRequestComponent asked = entry.getRequest();
                String url = "http://127.0.0.1:" + port + "/fhir/" + asked.getUrl();
                HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(url)).header("Accept", "application/fhir+json");
                if (asked.hasIfMatch()) {
                    request.header("If-Match", asked.getIfMatch());
                }
                if (asked.hasIfNoneExist()) {
                    request.header("If-None-Exist", asked.getIfNoneExist());
                }
                HttpRequest.BodyPublisher body = HttpRequest.BodyPublishers.noBody();
                if (entry.hasResource()) {
                    request.header("Content-Type", "application/fhir+json");
                    body = HttpRequest.BodyPublishers.ofString(CONTEXT.newJsonParser().encodeResourceToString(entry.getResource()));
                }
                request.method(asked.getMethod().toCode(), body);
                HttpResponse<String> answer = client.send(request.build(), HttpResponse.BodyHandlers.ofString());
                Bundle.BundleEntryResponseComponent told = answers.addEntry().getResponse().setStatus(answer.statusCode() + " .");
                if (answer.statusCode() >= 400) {
                    told.setOutcome(CONTEXT.newJsonParser().parseResource(OperationOutcome.class, answer.body()));
                }
            }
            return answers;
        }
    }
}

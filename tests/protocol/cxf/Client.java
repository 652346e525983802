// Calls web services of a node by the classes that CXF's wsdl2java made of their WSDLs.
//
//     Client PARTS_WSDL LEVELS_WSDL

import busbar.levels.CheckLevelPortType;
import busbar.levels.CheckLevelService;
import busbar.parts.PartsPortType;
import busbar.parts.PartsService;
import jakarta.xml.ws.BindingProvider;
import jakarta.xml.ws.Holder;
import jakarta.xml.ws.soap.SOAPBinding;
import jakarta.xml.ws.soap.SOAPFaultException;
import java.net.URL;
import javax.xml.datatype.DatatypeFactory;
import javax.xml.datatype.XMLGregorianCalendar;

public class Client {
    static void expect(boolean holds, Object told) {
        if (!holds) {
            throw new AssertionError(String.valueOf(told));
        }
    }

    static void levels(CheckLevelPortType port, boolean isTwo) throws Exception {
        // Faults of the sender come with this status in SOAP 1.2, which CXF reads only when it is told so.
        ((BindingProvider) port).getRequestContext().put("org.apache.cxf.transport.process_fault_on_http_400", "true");
        XMLGregorianCalendar since = DatatypeFactory.newInstance().newXMLGregorianCalendar("2026-03-01T08:00:00.123456Z");
        Holder<String> place = new Holder<>();
        Holder<Double> twice = new Holder<>();
        Holder<Long> next = new Holder<>();
        Holder<XMLGregorianCalendar> at = new Holder<>();
        String site = "G7 <水位> & \"x\"";
        port.checkLevel(site, 1.25, 1L << 53, since, "night", place, twice, next, at);
        expect((site + " night").equals(place.value), place.value);
        expect(twice.value == 2.5 && next.value == (1L << 53) + 1, twice.value + " " + next.value);
        expect(at.value.compare(since) == javax.xml.datatype.DatatypeConstants.EQUAL, at.value);
        // What is left out is null, and comes back as nothing.
        port.checkLevel("a", -1e-3, null, null, "day", place, twice, next, at);
        expect(twice.value == -2e-3 && next.value == null && at.value == null, twice.value + " " + next.value);
        XMLGregorianCalendar unclear = DatatypeFactory.newInstance().newXMLGregorianCalendar("2026-03-01T08:00:00");
        try {
            port.checkLevel("a", 1, null, unclear, "day", place, twice, next, at);
            expect(false, "no fault");
        } catch (SOAPFaultException fault) {
            expect(fault.getFault().getFaultCode().endsWith(isTwo ? ":Sender" : ":Client"), fault.getFault().getFaultCode());
            expect(fault.getMessage().contains("The parameter since is not of type time"), fault.getMessage());
            expect(fault.getFault().getDetail().getTextContent().contains("server.api-parameter"), "detail");
        }
    }

    public static void main(String[] args) throws Exception {
        PartsPortType parts = new PartsService(new URL(args[0])).getPartsSoap11();
        Holder<String> place = new Holder<>();
        Holder<Double> twice = new Holder<>();
        for (PartsPortType port : new PartsPortType[] {parts, new PartsService(new URL(args[0])).getPartsSoap12()}) {
            port.parts("b", 4.5, place, twice);
            expect("b".equals(place.value) && twice.value == 9, place.value + " " + twice.value);
        }
        CheckLevelService levels = new CheckLevelService(new URL(args[1]));
        levels(levels.getCheckLevelSoap11(), false);
        levels(levels.getCheckLevelSoap12(), true);
        // Its messages have several parts then, as those with attachments do.
        ((SOAPBinding) ((BindingProvider) parts).getBinding()).setMTOMEnabled(true);
        try {
            parts.parts("b", 1, place, twice);
            expect(false, "an attachment was taken");
        } catch (SOAPFaultException fault) {
            expect(fault.getMessage().contains("Attachments are not supported"), fault.getMessage());
        }
        System.out.println("done");
    }
}
